-- Makes the table `dead_letter` of release 0.1.0 into that of schema.sql. That release can use the new one, too: the version stays the
-- same. A table's UNIQUE cannot be taken from it, so the table is made anew; ids are not given out again.
CREATE TABLE dead_letter_next (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id BLOB NOT NULL,
    rows TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    buried_ms INTEGER NOT NULL,
    payload_digest BLOB,
    UNIQUE (source_id, rows, payload_digest)
);
INSERT INTO dead_letter_next (id, source_id, rows, reason, payload, buried_ms)
    SELECT id, source_id, rows, reason, payload, buried_ms FROM dead_letter;
DELETE FROM sqlite_sequence WHERE name = 'dead_letter_next';
INSERT INTO sqlite_sequence (name, seq) SELECT 'dead_letter_next', seq FROM sqlite_sequence WHERE name = 'dead_letter';
DROP TABLE dead_letter;
ALTER TABLE dead_letter_next RENAME TO dead_letter;
