CREATE TABLE metric (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key uuid NOT NULL UNIQUE, name text NOT NULL, alias text NOT NULL);
CREATE TABLE metric_list (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key uuid NOT NULL UNIQUE, metrics int[] NOT NULL);
CREATE TABLE workload (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key uuid NOT NULL UNIQUE, namespace text, pod text, container text, labels jsonb);
CREATE SEQUENCE series_set_id START 17179869184;
CREATE TABLE series_set (
    id bigint PRIMARY KEY DEFAULT nextval('series_set_id'), gpu_id bigint NOT NULL, list_id int NOT NULL, workload_id int);
CREATE INDEX series_set_gpu ON series_set (gpu_id);
CREATE TABLE gpu_block (
    id bigint PRIMARY KEY, first_seen timestamptz[] NOT NULL, last_seen timestamptz[] NOT NULL, commit_token bigint) WITH (fillfactor = 50);
CREATE TABLE sample_slab (
    block_id bigint NOT NULL,
    id bigint NOT NULL DEFAULT nextval('sample_chunk_id'),
    t_min timestamptz NOT NULL, t_max timestamptz NOT NULL,
    series_first bigint NOT NULL,
    n int NOT NULL,
    series int[] NOT NULL,
    offsets int[],
    "values" float8[] NOT NULL) PARTITION BY RANGE (t_min);
CREATE INDEX sample_slab_block ON sample_slab (block_id, t_max, t_min);
ALTER TABLE sample_slab ALTER COLUMN series SET STORAGE MAIN, ALTER COLUMN offsets SET STORAGE MAIN, ALTER COLUMN "values" SET STORAGE MAIN;
DO $$
BEGIN
    ALTER TABLE sample_slab ALTER COLUMN series SET COMPRESSION lz4;
    ALTER TABLE sample_slab ALTER COLUMN offsets SET COMPRESSION lz4;
    ALTER TABLE sample_slab ALTER COLUMN "values" SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL; -- A server built without LZ4: the default compression does.
END
$$;
