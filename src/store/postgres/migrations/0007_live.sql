-- For a fleet that is read live: identities that cost little, and rows that hold what one commit brought of several GPUs. What is here
-- already is left as it is, and older programs go on, until the first new program is about to write in the new form: see
-- src/store/postgres/live.rs.

-- A metric: its name in the catalogue, and the name by which it came. key is a digest of both.
CREATE TABLE metric (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key uuid NOT NULL UNIQUE,
    name text NOT NULL,
    alias text NOT NULL
);

-- Metrics in the order in which they came to a GPU. Lists are shared by the GPUs that have the same one, and never changed. key is a
-- digest of the ids.
CREATE TABLE metric_list (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key uuid NOT NULL UNIQUE,
    metrics int[] NOT NULL
);

-- Who used a GPU, with further labels. No workload and no further labels are null; what has neither has no row.
CREATE TABLE workload (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key uuid NOT NULL UNIQUE,
    namespace text,
    pod text,
    container text,
    labels jsonb
);

-- Up to 64 series of one GPU and one workload (null: none): those of the metrics of its list. The id of a series is the set's id * 64 and
-- its place in the list, from 0. So these ids are 2^40 and more, and those of the table `series` are less. A list grows at its end.
CREATE SEQUENCE series_set_id START 17179869184;
CREATE TABLE series_set (
    id bigint PRIMARY KEY DEFAULT nextval('series_set_id'),
    gpu_id bigint NOT NULL,
    list_id int NOT NULL,
    workload_id int
);
ALTER SEQUENCE series_set_id OWNED BY series_set.id;
CREATE INDEX series_set_gpu ON series_set (gpu_id);

-- 16 GPUs: those with id >> 4 = the block's id. The times of the oldest and newest sample of GPU g are at [(g & 15) + 1], null until it has
-- samples. commit_token is what the last commit to any of them left.
CREATE TABLE gpu_block (
    id bigint PRIMARY KEY,
    first_seen timestamptz[] NOT NULL,
    last_seen timestamptz[] NOT NULL,
    commit_token bigint
) WITH (fillfactor = 50);

-- What one commit brought of a block and a UTC day, in few rows. Sample i is of series series_first + series[i], at t_min + offsets[i] ms
-- (at t_min where offsets is null); ordered by series, then time. Chunks and slabs have their ids of one sequence.
CREATE TABLE sample_slab (
    block_id bigint NOT NULL,
    id bigint NOT NULL DEFAULT nextval('sample_chunk_id'),
    t_min timestamptz NOT NULL,
    t_max timestamptz NOT NULL,
    series_first bigint NOT NULL,
    n int NOT NULL,
    series int[] NOT NULL,
    offsets int[],
    "values" float8[] NOT NULL
) PARTITION BY RANGE (t_min);
CREATE INDEX sample_slab_block ON sample_slab (block_id, t_max, t_min);
ALTER TABLE sample_slab ALTER COLUMN series SET STORAGE MAIN;
ALTER TABLE sample_slab ALTER COLUMN offsets SET STORAGE MAIN;
ALTER TABLE sample_slab ALTER COLUMN "values" SET STORAGE MAIN;

DO $$
BEGIN
    ALTER TABLE sample_slab ALTER COLUMN series SET COMPRESSION lz4;
    ALTER TABLE sample_slab ALTER COLUMN offsets SET COMPRESSION lz4;
    ALTER TABLE sample_slab ALTER COLUMN "values" SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL; -- A server built without LZ4: the default compression does.
END
$$;

-- Whoever may use GPUs, series, chunks, and the numbers of chunks, may use what takes their place.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT n.new_name, a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
          FROM (VALUES ('gpu', 'gpu_block'), ('series', 'metric'), ('series', 'metric_list'), ('series', 'workload'),
                       ('series', 'series_set'), ('sample_chunk', 'sample_slab'), ('sample_chunk_id', 'series_set_id')) n (old_name, new_name)
          JOIN pg_class c ON c.oid = n.old_name::regclass
         CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'USAGE')
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s', granted.privilege_type, granted.new_name, granted.grantee);
    END LOOP;
    EXECUTE format('GRANT ALL ON metric, metric_list, workload, series_set, gpu_block, sample_slab, series_set_id TO %I',
                   (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'sample_chunk'::regclass));
END
$$;

-- From the announcement on, GPUs have their times in gpu_block and new series are in sets. A collector of an older program that still runs
-- would write where nobody looks: it is kept out, and its batches stay in the queue. The announcement waits for who is at it already, and
-- who waits for the announcement looks here after it. Its user may have no right to look.
CREATE FUNCTION refuse_older_collectors() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    announced boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.schema_step WHERE name = ''live'' AND compatible_from = version)', TG_TABLE_SCHEMA)
       INTO announced;
    IF announced THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'this store is written in a form that this program does not know: upgrade telemetry, its collectors too';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER refuse_older_collectors BEFORE UPDATE OF first_seen, last_seen ON gpu
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_older_collectors();
CREATE TRIGGER refuse_older_collectors BEFORE INSERT ON series
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_older_collectors();
