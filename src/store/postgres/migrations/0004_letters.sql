-- Letters of rows that have one already: whoever forges an entry may name any rows, and what cannot be read names none. Release 0.1.0
-- keeps one letter for the same rows of a source, and needs the unique index for that. An index holds for the table itself and not for
-- those that inherit from it, and who reads, counts or deletes letters there does so here too.
CREATE TABLE dead_letter_same_rows (
    payload_digest bytea NOT NULL GENERATED ALWAYS AS (sha256(payload)) STORED,
    PRIMARY KEY (id),
    UNIQUE (source_id, rows, payload_digest)
) INHERITS (dead_letter);
ALTER TABLE dead_letter_same_rows ALTER id SET DEFAULT nextval('dead_letter_id_seq');

-- Collectors may be other members of the role that owns the tables than the one that migrates.
DO $$
BEGIN
    EXECUTE format('GRANT ALL ON dead_letter_same_rows TO %I',
                   (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'dead_letter'::regclass));
END
$$;
