-- Samples live in chunks: a few to thousands of samples of one series and one UTC day in one row. Everything is made in the
-- current schema (search_path). PostgreSQL 14 or later, no extension.

CREATE TABLE store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO store DEFAULT VALUES;

-- A GPU as its export described it; the attributes are part of the identity (`key`), an empty text is an unknown attribute.
-- first_seen and last_seen are the times of its oldest and newest sample, null until it has one.
-- Hash indexes where the text comes from outside: a B-tree entry may not be longer than 2,704 bytes.
CREATE TABLE gpu (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key uuid NOT NULL UNIQUE,
    cluster text NOT NULL,
    uuid text NOT NULL,
    hostname text NOT NULL,
    gpu_index int,
    device text NOT NULL,
    model text NOT NULL,
    driver_version text NOT NULL,
    pci_bus_id text NOT NULL,
    mig_profile text NOT NULL,
    mig_instance text NOT NULL,
    first_seen timestamptz,
    last_seen timestamptz
) WITH (fillfactor = 50);
CREATE INDEX gpu_uuid ON gpu USING hash (uuid);
CREATE INDEX gpu_hostname ON gpu USING hash (hostname);

-- One metric of one GPU as one workload used it. No workload and no further labels are null.
CREATE TABLE series (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key uuid NOT NULL UNIQUE,
    gpu_id bigint NOT NULL REFERENCES gpu (id),
    metric text NOT NULL,
    namespace text,
    pod text,
    container text,
    labels jsonb
);
CREATE INDEX series_gpu ON series (gpu_id);
CREATE INDEX series_metric ON series USING hash (metric);

-- A later chunk has a greater id. Partitions: sample_chunk_YYYYMMDD, by UTC day of t_min; a chunk stays within its day.
-- Sample i (from 1) is at t_min + offsets[i] ms, or, where offsets is null, at t_min + (i - 1) * step_ms.
CREATE SEQUENCE sample_chunk_id;
CREATE TABLE sample_chunk (
    id bigint NOT NULL DEFAULT nextval('sample_chunk_id'),
    series_id bigint NOT NULL,
    t_min timestamptz NOT NULL,
    t_max timestamptz NOT NULL,
    n int NOT NULL,
    step_ms int,
    offsets int[],
    "values" float8[] NOT NULL
) PARTITION BY RANGE (t_min);
ALTER SEQUENCE sample_chunk_id OWNED BY sample_chunk.id;
CREATE INDEX sample_chunk_series ON sample_chunk (series_id, t_max);

DO $$
BEGIN
    ALTER TABLE sample_chunk ALTER COLUMN offsets SET COMPRESSION lz4;
    ALTER TABLE sample_chunk ALTER COLUMN "values" SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL; -- A server built without LZ4: the default compression does.
END
$$;

-- The ledger. covered: rows that are stored or rejected; valid + sum(source_reject.n) = rows in covered.
-- duplicate: of the valid ones, those found stored before. extra: samples stored at rows that were covered already (another
-- content under the same id), which are not counted in valid.
CREATE TABLE source (
    id uuid PRIMARY KEY,
    family uuid NOT NULL,
    cluster text NOT NULL,
    name text NOT NULL,
    covered int8multirange NOT NULL DEFAULT '{}',
    dropped int8multirange NOT NULL DEFAULT '{}',
    valid bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    extra bigint NOT NULL DEFAULT 0,
    first_commit timestamptz,
    last_commit timestamptz,
    newest_sample timestamptz
) WITH (fillfactor = 50);
CREATE INDEX source_family ON source (family);

CREATE TABLE source_reject (
    source_id uuid NOT NULL,
    reason smallint NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (source_id, reason)
);

-- Names of the reasons, for people; the program keeps it up to date.
CREATE TABLE reject_reason (
    code smallint PRIMARY KEY,
    name text NOT NULL
);

-- The rejected rows themselves: row ordinals and physical lines of one reason.
CREATE TABLE reject_chunk (
    source_id uuid NOT NULL,
    first_row bigint NOT NULL,
    reason smallint NOT NULL,
    n int NOT NULL,
    rows bigint[] NOT NULL,
    lines bigint[] NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX reject_chunk_source ON reject_chunk (source_id, first_row);

-- Batches that could not be stored for a reason of their own.
CREATE TABLE dead_letter (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id uuid NOT NULL,
    rows int8range NOT NULL,
    reason text NOT NULL,
    payload bytea NOT NULL,
    dictionary_digests uuid[] NOT NULL,
    dictionaries bytea[] NOT NULL,
    entry text NOT NULL,
    buried_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (source_id, rows)
);

CREATE TABLE batch_failure (
    entry text PRIMARY KEY,
    failures int NOT NULL,
    last_reason text NOT NULL,
    last_at timestamptz NOT NULL
);

-- Plain SQL. unnest pads the offsets with nulls where they are null.
CREATE VIEW samples AS
SELECT c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms' AS ts,
       g.cluster, g.hostname, g.uuid AS gpu_uuid, g.gpu_index, g.device, g.model,
       s.metric AS metric_name, u.value, s.namespace, s.pod, s.container
  FROM sample_chunk c
  JOIN series s ON s.id = c.series_id
  JOIN gpu g ON g.id = s.gpu_id
 CROSS JOIN LATERAL unnest(c.offsets, c."values") WITH ORDINALITY u (offset_ms, value, i);

-- The same between two times, both included. The planner unfolds it, and reads only the days and chunks concerned.
CREATE FUNCTION samples_between("from" timestamptz, "to" timestamptz)
RETURNS TABLE (
    ts timestamptz, cluster text, hostname text, gpu_uuid text, gpu_index int, device text, model text,
    metric_name text, value float8, namespace text, pod text, container text
)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms',
       g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       s.metric, u.value, s.namespace, s.pod, s.container
  FROM sample_chunk c
  JOIN series s ON s.id = c.series_id
  JOIN gpu g ON g.id = s.gpu_id
 CROSS JOIN LATERAL unnest(c.offsets, c."values") WITH ORDINALITY u (offset_ms, value, i)
 WHERE c.t_min >= date_trunc('day', $1, 'UTC') AND c.t_min <= $2 AND c.t_max >= $1
   AND c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms' BETWEEN $1 AND $2
$$;

CREATE VIEW rejected_rows AS
SELECT r.source_id, s.cluster, s.name AS source_name, u."row", u.line, coalesce(n.name, r.reason::text) AS reason, r.noted_at
  FROM reject_chunk r
  JOIN source s ON s.id = r.source_id
  LEFT JOIN reject_reason n ON n.code = r.reason
 CROSS JOIN LATERAL unnest(r.rows, r.lines) u ("row", line);
