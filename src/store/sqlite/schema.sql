-- The schema of version 1. The same shape as in PostgreSQL: samples live in chunks, a chunk stays within its UTC day, a later chunk
-- has a greater id. Times are ms since 1970.

-- open.rs adds floor_ms, which release 0.1.0 does not know: samples before it are expired; null: everything is kept.
CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, created_ms INTEGER NOT NULL);

-- The attributes are part of the identity (`key`), an empty text is an unknown attribute. first_seen and last_seen are the times of
-- its oldest and newest sample, null until it has one.
CREATE TABLE gpu (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    cluster TEXT NOT NULL,
    uuid TEXT NOT NULL,
    hostname TEXT NOT NULL,
    gpu_index INTEGER,
    device TEXT NOT NULL,
    model TEXT NOT NULL,
    driver_version TEXT NOT NULL,
    pci_bus_id TEXT NOT NULL,
    mig_profile TEXT NOT NULL,
    mig_instance TEXT NOT NULL,
    first_seen INTEGER,
    last_seen INTEGER
);
CREATE INDEX gpu_place ON gpu (cluster, hostname, coalesce(gpu_index, -1), uuid, mig_instance);
CREATE INDEX gpu_uuid ON gpu (uuid);

CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    gpu_id INTEGER NOT NULL REFERENCES gpu (id),
    metric TEXT NOT NULL,
    namespace TEXT NOT NULL,
    pod TEXT NOT NULL,
    container TEXT NOT NULL,
    labels TEXT
);
CREATE INDEX series_gpu ON series (gpu_id);
CREATE INDEX series_metric ON series (metric);

-- data: see blob.rs.
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    series_id INTEGER NOT NULL,
    t_min INTEGER NOT NULL,
    t_max INTEGER NOT NULL,
    n INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX chunk_series ON chunk (series_id, t_max, t_min);

-- The ledger: see PostgreSQL's.
CREATE TABLE source (
    id BLOB PRIMARY KEY,
    family BLOB NOT NULL,
    cluster TEXT NOT NULL,
    name TEXT NOT NULL,
    covered TEXT NOT NULL DEFAULT '{}',
    dropped TEXT NOT NULL DEFAULT '{}',
    valid INTEGER NOT NULL DEFAULT 0,
    duplicate INTEGER NOT NULL DEFAULT 0,
    extra INTEGER NOT NULL DEFAULT 0,
    first_commit INTEGER,
    last_commit INTEGER,
    newest_sample INTEGER,
    conflict INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX source_family ON source (family);

CREATE TABLE source_reject (
    source_id BLOB NOT NULL,
    reason INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (source_id, reason)
) WITHOUT ROWID;

-- The rejected rows themselves: row ordinal and physical line.
CREATE TABLE reject (
    source_id BLOB NOT NULL,
    row INTEGER NOT NULL,
    line INTEGER NOT NULL,
    reason INTEGER NOT NULL,
    PRIMARY KEY (source_id, row)
) WITHOUT ROWID;

-- payload_digest: SHA-256 of the payload. Release 0.1.0 knows neither this column nor more than one letter of the same rows; letters
-- that it keeps get theirs when the store is opened again (see letters.sql).
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id BLOB NOT NULL,
    rows TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    buried_ms INTEGER NOT NULL,
    payload_digest BLOB,
    UNIQUE (source_id, rows, payload_digest)
);
CREATE TABLE dead_dictionary (
    letter INTEGER NOT NULL REFERENCES dead_letter (id) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    digest BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (letter, place)
) WITHOUT ROWID;

CREATE TABLE batch_failure (
    entry TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    last_reason TEXT NOT NULL,
    last_ms INTEGER NOT NULL
) WITHOUT ROWID;
