-- Packed rows: a rectangle of series of one GPU and times that they share, in strings of bits. What heads and bits have in them is said
-- by the head of src/store/packed/mod.rs. A row has the greatest id of what it replaces, and stays within its UTC day. Partitions:
-- sample_packed_YYYYMMDD, by UTC day of t_min.
CREATE TABLE sample_packed (
    gpu_id bigint NOT NULL,
    id bigint NOT NULL,
    t_min timestamptz NOT NULL,
    t_max timestamptz NOT NULL,
    series_first bigint NOT NULL,
    n int NOT NULL,
    k int NOT NULL,
    heads varbit NOT NULL,
    bits varbit NOT NULL
) PARTITION BY RANGE (t_min);
CREATE INDEX sample_packed_gpu ON sample_packed (gpu_id, t_max, t_min);

DO $$
BEGIN
    ALTER TABLE sample_packed ALTER COLUMN heads SET COMPRESSION lz4;
    ALTER TABLE sample_packed ALTER COLUMN bits SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL; -- A server built without LZ4: the default compression does.
END
$$;

-- Whoever may use chunks may use them when they are packed.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
          FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE c.oid = 'sample_chunk'::regclass AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('GRANT %s ON sample_packed TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
    EXECUTE format('GRANT ALL ON sample_packed TO %I',
                   (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'sample_chunk'::regclass));
END
$$;

-- The float8 that has this bit pattern: no product is rounded.
CREATE FUNCTION float8_of_bits(pattern bigint) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE WHEN pattern < 0 THEN -1::float8 ELSE 1::float8 END
     * ((pattern & 4503599627370495) + CASE WHEN (pattern >> 52) & 2047 = 0 THEN 0 ELSE 4503599627370496 END)::float8
     * power(2::float8, (greatest((pattern >> 52) & 2047, 1) - 1075)::float8)
$$;

-- The samples of packed rows. A condition on t_min and t_max (and gpu_id) chooses rows before anything is unpacked, one on series_id
-- before the series' values are.
CREATE VIEW packed_sample AS
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
 -- The widths of the fields of heads.
 CROSS JOIN LATERAL (
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
    SELECT p.series_first + g.series AS series_id, nullif(g.delay, 0) * interval '1 ms' AS delay, g.width, g.base, g.slope, w.shift,
           ('{1,1e1,1e2,1e3,1e4,1e5,1e6,1e7,1e8,1e9,1e10,1e11,1e12,1e13,1e14,1e15,1e16,1e17,1e18,1e19,1e20,1e21,1e22}'::float8[])[g.scale + 1]
               AS power,
           g.width < 64 AND g.slope = 0 AND g.exact = 0 AS plain, greatest(g.width, 1) AS step,
           CASE WHEN g.width < 64 THEN (1::bigint << g.width) - g.exact END AS bound,
           substring(t.bits,
                     (1 + p.n * w."time" + sum(p.n * g.width + 64 * g.exact) OVER (ORDER BY g.j) - (p.n * g.width + 64 * g.exact))::int,
                     p.n * g.width + 64 * g.exact) AS codes
      FROM (
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
 CROSS JOIN LATERAL (SELECT unnest(t.times) AS ts, generate_series(1, 1 + (p.n - 1) * h.step, h.step) AS at) d;

-- Plain SQL: every sample in whichever form, with the first and the last time of the row that it is in. A condition on those chooses rows,
-- and days, before anything is unpacked. Each form is joined for itself, so that the index of each can be used.
CREATE VIEW sample_place AS
SELECT c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms' AS ts,
       g.cluster, g.hostname, g.uuid AS gpu_uuid, g.gpu_index, g.device, g.model,
       s.metric AS metric_name, u.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       c.t_min, c.t_max
  FROM sample_chunk c
  JOIN series s ON s.id = c.series_id
  JOIN gpu g ON g.id = s.gpu_id
 CROSS JOIN LATERAL unnest(c.offsets, c."values") WITH ORDINALITY u (offset_ms, value, i)
UNION ALL
SELECT p.ts, g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       s.metric, p.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       p.t_min, p.t_max
  FROM packed_sample p
  JOIN series s ON s.id = p.series_id AND s.gpu_id = p.gpu_id
  JOIN gpu g ON g.id = s.gpu_id;

CREATE OR REPLACE VIEW samples AS
SELECT ts, cluster, hostname, gpu_uuid, gpu_index, device, model, metric_name, value, namespace, pod, container,
       mig_profile, mig_instance, labels
  FROM sample_place;

-- The same between two times, both included. The planner unfolds it, and reads only the days and rows concerned: its bounds are known
-- while planning. It has columns more than before, which takes a new function; views that use the former one go on with that.
DO $$
BEGIN
    DROP FUNCTION samples_between(timestamptz, timestamptz);
EXCEPTION WHEN dependent_objects_still_exist THEN
    ALTER FUNCTION samples_between(timestamptz, timestamptz) RENAME TO samples_between_without_labels;
END
$$;

CREATE FUNCTION samples_between("from" timestamptz, "to" timestamptz)
RETURNS TABLE (
    ts timestamptz, cluster text, hostname text, gpu_uuid text, gpu_index int, device text, model text,
    metric_name text, value float8, namespace text, pod text, container text, mig_profile text, mig_instance text, labels jsonb
)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT s.ts, s.cluster, s.hostname, s.gpu_uuid, s.gpu_index, s.device, s.model, s.metric_name, s.value, s.namespace, s.pod, s.container,
       s.mig_profile, s.mig_instance, s.labels
  FROM sample_place s
 WHERE s.t_min >= timezone('UTC', date_trunc('day', timezone('UTC', $1))) AND s.t_min <= $2 AND s.t_max >= $1
   AND s.ts BETWEEN $1 AND $2
$$;

DO $$
BEGIN
    IF to_regprocedure('samples_between_without_labels(timestamptz, timestamptz)') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION samples_between_without_labels("from" timestamptz, "to" timestamptz)
        RETURNS TABLE (
            ts timestamptz, cluster text, hostname text, gpu_uuid text, gpu_index int, device text, model text,
            metric_name text, value float8, namespace text, pod text, container text
        )
        LANGUAGE sql STABLE PARALLEL SAFE AS $function$
        SELECT s.ts, s.cluster, s.hostname, s.gpu_uuid, s.gpu_index, s.device, s.model, s.metric_name, s.value, s.namespace, s.pod,
               s.container
          FROM samples_between($1, $2) s
        $function$;
    END IF;
END
$$;
