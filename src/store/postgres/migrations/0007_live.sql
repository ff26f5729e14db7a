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
) WITH (fillfactor = 70);
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

-- Every series, in whichever form it is registered.
CREATE VIEW series_all AS
SELECT s.id, s.gpu_id, s.metric, s.metric AS alias, s.namespace, s.pod, s.container, s.labels
  FROM series s
UNION ALL
SELECT t.id * 64 + e.place - 1, t.gpu_id, m.name, m.alias, w.namespace, w.pod, w.container, w.labels
  FROM series_set t
  JOIN metric_list l ON l.id = t.list_id
 CROSS JOIN LATERAL unnest(l.metrics) WITH ORDINALITY e (metric_id, place)
  JOIN metric m ON m.id = e.metric_id
  LEFT JOIN workload w ON w.id = t.workload_id;

-- As before; what is done once a row is one item of the FROM, so that a query may join five more before the planner stops looking for the
-- best order (join_collapse_limit).
CREATE OR REPLACE VIEW packed_sample AS
SELECT p.gpu_id, p.id, h.series_id, p.t_min, p.t_max,
       CASE WHEN h.delay IS NULL THEN d.ts ELSE d.ts + h.delay END AS ts,
       CASE WHEN h.plain THEN (h.base + substring(h.codes, d.at, h.width)::bigint)::float8 / h.power
            WHEN h.width = 64 THEN float8_of_bits(substring(h.codes, d.at, h.width)::bigint)
            WHEN substring(h.codes, d.at, h.width)::bigint < h.bound
            THEN (h.base + (h.slope * ((d.at - 1) / h.step) >> h.shift) + substring(h.codes, d.at, h.width)::bigint)::float8 / h.power
            ELSE float8_of_bits(substring(h.codes,
                (1 + p.n * h.width + 64 * (substring(h.codes, d.at, h.width)::bigint - h.bound))::int, 64)::bigint)
       END AS value
  FROM sample_packed p
 CROSS JOIN LATERAL (
    SELECT p.series_first + g.series AS series_id, nullif(g.delay, 0) * interval '1 ms' AS delay, g.width, g.base, g.slope, w.shift,
           ('{1,1e1,1e2,1e3,1e4,1e5,1e6,1e7,1e8,1e9,1e10,1e11,1e12,1e13,1e14,1e15,1e16,1e17,1e18,1e19,1e20,1e21,1e22}'::float8[])[g.scale + 1]
               AS power,
           g.width < 64 AND g.slope = 0 AND g.exact = 0 AS plain, greatest(g.width, 1) AS step,
           CASE WHEN g.width < 64 THEN (1::bigint << g.width) - g.exact END AS bound,
           substring(t.bits,
                     (1 + p.n * w."time" + sum(p.n * g.width + 64 * g.exact) OVER (ORDER BY g.j) - (p.n * g.width + 64 * g.exact))::int,
                     p.n * g.width + 64 * g.exact) AS codes,
           t.times
      -- The widths of the fields of heads.
      FROM (
        SELECT substring(p.heads, 1, 6)::int AS series, substring(p.heads, 7, 6)::int AS base, substring(p.heads, 13, 6)::int AS slope,
               substring(p.heads, 19, 4)::int AS exact, substring(p.heads, 23, 5)::int AS delay, substring(p.heads, 28, 4)::int AS shift,
               substring(p.heads, 32, 6)::int AS "time", substring(p.heads, 38, 28)::bigint - 134217728 AS time_base,
               substring(p.heads, 66, 40)::bigint AS time_slope
        OFFSET 0
      ) w
     -- The times, and the bits in memory, once for all series.
     CROSS JOIN LATERAL (
        SELECT p.bits || B'' AS bits,
               ARRAY(SELECT p.t_min + (w.time_base + ((w.time_slope * i) >> w.shift) + substring(b.bits, 1 + i * w."time", w."time")::bigint)
                                    * interval '1 ms'
                       FROM (SELECT substring(p.bits, 1, p.n * w."time") AS bits OFFSET 0) b, generate_series(0, p.n - 1) i) AS times
        OFFSET 0
     ) t
     -- The heads.
     CROSS JOIN LATERAL (
        SELECT j, substring(p.heads, at, 7)::int AS width, substring(p.heads, at + 7, 5)::int AS scale,
               substring(p.heads, at + 12, w.series)::bigint AS series,
               CASE WHEN w.base = 0 THEN 0 ELSE substring(p.heads, at + 12 + w.series, w.base)::bigint - (1::bigint << (w.base - 1)) END AS base,
               CASE WHEN w.slope = 0 THEN 0
                    ELSE substring(p.heads, at + 12 + w.series + w.base, w.slope)::bigint - (1::bigint << (w.slope - 1)) END AS slope,
               substring(p.heads, at + 12 + w.series + w.base + w.slope, w.exact)::int AS exact,
               substring(p.heads, at + 12 + w.series + w.base + w.slope + w.exact, w.delay)::int AS delay
          FROM (SELECT j, 106 + j * (12 + w.series + w.base + w.slope + w.exact + w.delay) AS at FROM generate_series(0, p.k - 1) j) a
        OFFSET 0
     ) g
    OFFSET 0
 ) h
 CROSS JOIN LATERAL (SELECT unnest(h.times) AS ts, generate_series(1, 1 + (p.n - 1) * h.step, h.step) AS at) d;

-- Every sample, of each form of rows and each form of series. A branch for each, so that the index of each can be used; those of a form that
-- is not there cost nothing. A chunk is found by its series, which are the members of the sets of a GPU; slabs and packed rows are found by
-- the GPU, and their series looked up. No FROM has more than eight items (join_collapse_limit).
CREATE OR REPLACE VIEW sample_place AS
SELECT c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms' AS ts,
       g.cluster, g.hostname, g.uuid AS gpu_uuid, g.gpu_index, g.device, g.model,
       s.metric AS metric_name, u.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       c.t_min, c.t_max, s.metric AS metric_alias
  FROM sample_chunk c
  JOIN series s ON s.id = c.series_id
  JOIN gpu g ON g.id = s.gpu_id
 CROSS JOIN LATERAL unnest(c.offsets, c."values") WITH ORDINALITY u (offset_ms, value, i)
 WHERE c.series_id < 1099511627776 AND EXISTS (SELECT FROM series)
UNION ALL
SELECT c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms',
       g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       m.name, u.value, w.namespace, w.pod, w.container, g.mig_profile, g.mig_instance, w.labels,
       c.t_min, c.t_max, m.alias
  FROM gpu g
  JOIN series_set t ON t.gpu_id = g.id
  JOIN metric_list l ON l.id = t.list_id
 CROSS JOIN LATERAL unnest(l.metrics) WITH ORDINALITY e (metric_id, place)
  JOIN metric m ON m.id = e.metric_id
  LEFT JOIN workload w ON w.id = t.workload_id
  JOIN sample_chunk c ON c.series_id = t.id * 64 + e.place - 1
 CROSS JOIN LATERAL unnest(c.offsets, c."values") WITH ORDINALITY u (offset_ms, value, i)
 WHERE c.series_id >= 1099511627776 AND EXISTS (SELECT FROM series_set)
UNION ALL
SELECT b.t_min + coalesce(u.offset_ms, 0) * interval '1 ms',
       g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       s.metric, u.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       b.t_min, b.t_max, s.metric
  FROM sample_slab b
 CROSS JOIN LATERAL unnest(b.series, b.offsets, b."values") u (series, offset_ms, value)
  JOIN series s ON s.id = b.series_first + u.series
  JOIN gpu g ON g.id = s.gpu_id AND g.id >> 4 = b.block_id
 WHERE b.series_first < 1099511627776 AND EXISTS (SELECT FROM series)
UNION ALL
SELECT b.t_min + coalesce(u.offset_ms, 0) * interval '1 ms',
       g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       m.name, u.value, w.namespace, w.pod, w.container, g.mig_profile, g.mig_instance, w.labels,
       b.t_min, b.t_max, m.alias
  FROM sample_slab b
 CROSS JOIN LATERAL unnest(b.series, b.offsets, b."values") u (series, offset_ms, value)
  JOIN series_set t ON t.id = (b.series_first + u.series) >> 6
  JOIN gpu g ON g.id = t.gpu_id AND g.id >> 4 = b.block_id
  JOIN metric_list l ON l.id = t.list_id
  JOIN metric m ON m.id = l.metrics[((b.series_first + u.series) & 63) + 1]
  LEFT JOIN workload w ON w.id = t.workload_id
 WHERE b.series_first >= 1099511627776 AND EXISTS (SELECT FROM series_set)
UNION ALL
SELECT p.ts, g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       s.metric, p.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       p.t_min, p.t_max, s.metric
  FROM packed_sample p
  JOIN series s ON s.id = p.series_id AND s.gpu_id = p.gpu_id
  JOIN gpu g ON g.id = s.gpu_id
 WHERE p.series_id < 1099511627776 AND EXISTS (SELECT FROM series)
UNION ALL
SELECT p.ts, g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       m.name, p.value, w.namespace, w.pod, w.container, g.mig_profile, g.mig_instance, w.labels,
       p.t_min, p.t_max, m.alias
  FROM packed_sample p
  JOIN series_set t ON t.id = p.series_id >> 6 AND t.gpu_id = p.gpu_id
  JOIN gpu g ON g.id = t.gpu_id
  JOIN metric_list l ON l.id = t.list_id
  JOIN metric m ON m.id = l.metrics[(p.series_id & 63) + 1]
  LEFT JOIN workload w ON w.id = t.workload_id
 WHERE p.series_id >= 1099511627776 AND EXISTS (SELECT FROM series_set);

CREATE OR REPLACE VIEW samples AS
SELECT ts, cluster, hostname, gpu_uuid, gpu_index, device, model, metric_name, value, namespace, pod, container,
       mig_profile, mig_instance, labels, metric_alias
  FROM sample_place;

-- With a column more, which takes a new function; views that use the former one go on with that.
DO $$
BEGIN
    DROP FUNCTION samples_between(timestamptz, timestamptz);
EXCEPTION WHEN dependent_objects_still_exist THEN
    ALTER FUNCTION samples_between(timestamptz, timestamptz) RENAME TO samples_between_without_alias;
END
$$;

CREATE FUNCTION samples_between("from" timestamptz, "to" timestamptz)
RETURNS TABLE (
    ts timestamptz, cluster text, hostname text, gpu_uuid text, gpu_index int, device text, model text,
    metric_name text, value float8, namespace text, pod text, container text, mig_profile text, mig_instance text, labels jsonb,
    metric_alias text
)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT s.ts, s.cluster, s.hostname, s.gpu_uuid, s.gpu_index, s.device, s.model, s.metric_name, s.value, s.namespace, s.pod, s.container,
       s.mig_profile, s.mig_instance, s.labels, s.metric_alias
  FROM sample_place s
 WHERE s.t_min >= timezone('UTC', date_trunc('day', timezone('UTC', $1))) AND s.t_min <= $2 AND s.t_max >= $1
   AND s.ts BETWEEN $1 AND $2
$$;
