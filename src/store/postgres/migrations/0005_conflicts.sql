-- A sample (series, time, value) is stored once. A conflict is a sample that is written beside another value of its series and time: both
-- are kept, and it is counted at the source that brought the later one.
ALTER TABLE source ADD COLUMN conflict bigint NOT NULL DEFAULT 0;

-- Where conflicts are: n of a series between these times. One row a commit, source and series.
CREATE TABLE sample_conflict (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id uuid NOT NULL,
    series_id bigint NOT NULL,
    t_min timestamptz NOT NULL,
    t_max timestamptz NOT NULL,
    n bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);

-- A random number that each commit leaves at the GPUs that it writes to: whoever finds its own there knows what is stored of the GPU.
-- Release 0.1.0 leaves none.
ALTER TABLE gpu ADD COLUMN commit_token bigint;

-- Collectors may be other members of the role that owns the tables than the one that migrates.
DO $$
BEGIN
    EXECUTE format('GRANT ALL ON sample_conflict TO %I',
                   (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'source'::regclass));
END
$$;
