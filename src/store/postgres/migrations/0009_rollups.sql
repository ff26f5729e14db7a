-- Rollups: what the samples of a series come to in 5 minutes and in an hour. A row is a rectangle of buckets and columns in the form of
-- sample_packed; the column of a statistic has the id of the series * 8 + its number (0 count, 1 least value, 2 greatest less least, 3 sum of
-- what is above the least, 4 first less least, 5 greatest less last, 6 ms from the bucket's beginning to the last sample, 7 what a counter
-- grew more than from first to last, or the bits of a mask that the greatest value has not; 2 to 5 and 7 are left out where they are 0).
-- hours: a bit for each hour of the day that the rows of one rewrite are of. One of these, with the greatest id of all, is the cover: it says
-- that there is everything in these hours but for the series that its bits list. They hold as long as no chunk or slab reaches into the hour.
CREATE TABLE sample_rollup_5m (
    gpu_id bigint NOT NULL,
    t_min timestamptz NOT NULL,
    t_max timestamptz NOT NULL,
    series_first bigint NOT NULL,
    series_last bigint NOT NULL,
    n int NOT NULL,
    k int NOT NULL,
    hours int NOT NULL,
    heads varbit NOT NULL,
    bits varbit NOT NULL
) PARTITION BY RANGE (t_min);
CREATE TABLE sample_rollup_1h (LIKE sample_rollup_5m) PARTITION BY RANGE (t_min);
CREATE INDEX sample_rollup_5m_gpu ON sample_rollup_5m (gpu_id, series_last, series_first);
CREATE INDEX sample_rollup_1h_gpu ON sample_rollup_1h (gpu_id, series_last, series_first);

DO $$
DECLARE
    made text;
BEGIN
    FOREACH made IN ARRAY ARRAY['sample_rollup_5m', 'sample_rollup_1h'] LOOP
        EXECUTE format('ALTER TABLE %I ALTER COLUMN heads SET COMPRESSION lz4, ALTER COLUMN bits SET COMPRESSION lz4', made);
    END LOOP;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL; -- A server built without LZ4: the default compression does.
END
$$;

-- How a metric behaves: 'gauge', 'counter' or 'mask', by each of its names; what the catalogue of the program does not know is not there.
CREATE TABLE metric_kind (
    name text PRIMARY KEY,
    kind text NOT NULL
);

-- Whoever may use packed rows may use rollups.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
          FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE c.oid = 'sample_packed'::regclass AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('GRANT %s ON sample_rollup_5m, sample_rollup_1h, metric_kind TO %s', granted.privilege_type, granted.grantee);
    END LOOP;
    EXECUTE format('GRANT ALL ON sample_rollup_5m, sample_rollup_1h, metric_kind TO %I',
                   (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'sample_packed'::regclass));
END
$$;

-- The columns of a row of rollups, value by value.
CREATE FUNCTION rollup_columns(heads varbit, bits varbit, n int, k int, series_first bigint, t_min timestamptz)
RETURNS TABLE (id bigint, ts timestamptz, value float8)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT h.id, d.ts,
       CASE WHEN h.width = 64 THEN float8_of_bits(substring(h.codes, d.at, h.width)::bigint)
            WHEN h.exact = 0 OR substring(h.codes, d.at, h.width)::bigint < (1::bigint << h.width) - h.exact
            THEN (h.base + (h.slope * ((d.at - 1) / greatest(h.width, 1)) >> h.shift) + substring(h.codes, d.at, h.width)::bigint)::float8 / h.power
            ELSE float8_of_bits(substring(h.codes,
                (1 + $3 * h.width + 64 * (substring(h.codes, d.at, h.width)::bigint - ((1::bigint << h.width) - h.exact)))::int, 64)::bigint)
       END
  FROM (
    SELECT $5 + g.series AS id, g.width, g.base, g.slope, g.exact, w.shift, t.times,
           ('{1,1e1,1e2,1e3,1e4,1e5,1e6,1e7,1e8,1e9,1e10,1e11,1e12,1e13,1e14,1e15,1e16,1e17,1e18,1e19,1e20,1e21,1e22}'::float8[])[g.scale + 1]
               AS power,
           substring(t.bits,
                     (1 + $3 * w."time" + sum($3 * g.width + 64 * g.exact) OVER (ORDER BY g.j) - ($3 * g.width + 64 * g.exact))::int,
                     $3 * g.width + 64 * g.exact) AS codes
      FROM (
        SELECT substring($1, 1, 6)::int AS series, substring($1, 7, 6)::int AS base, substring($1, 13, 6)::int AS slope,
               substring($1, 19, 4)::int AS exact, substring($1, 23, 5)::int AS delay, substring($1, 28, 4)::int AS shift,
               substring($1, 32, 6)::int AS "time", substring($1, 38, 28)::bigint - 134217728 AS time_base,
               substring($1, 66, 40)::bigint AS time_slope
        OFFSET 0
      ) w
     CROSS JOIN LATERAL (
        SELECT $2 || B'' AS bits,
               ARRAY(SELECT $6 + (w.time_base + ((w.time_slope * i) >> w.shift) + substring(b.bits, 1 + i * w."time", w."time")::bigint)
                              * interval '1 ms'
                       FROM (SELECT substring($2, 1, $3 * w."time") AS bits OFFSET 0) b, generate_series(0, $3 - 1) i) AS times
        OFFSET 0
     ) t
     CROSS JOIN LATERAL (
        SELECT j, substring($1, at, 7)::int AS width, substring($1, at + 7, 5)::int AS scale,
               substring($1, at + 12, w.series)::bigint AS series,
               CASE WHEN w.base = 0 THEN 0 ELSE substring($1, at + 12 + w.series, w.base)::bigint - (1::bigint << (w.base - 1)) END AS base,
               CASE WHEN w.slope = 0 THEN 0
                    ELSE substring($1, at + 12 + w.series + w.base, w.slope)::bigint - (1::bigint << (w.slope - 1)) END AS slope,
               substring($1, at + 12 + w.series + w.base + w.slope, w.exact)::int AS exact
          -- An array, of which the planner expects a few elements, and not a thousand.
          FROM (SELECT j, 106 + j * (12 + w.series + w.base + w.slope + w.exact + w.delay) AS at
                  FROM unnest(ARRAY(SELECT generate_series(0, $4 - 1))) j) a
        OFFSET 0
     ) g
    OFFSET 0
  ) h
 CROSS JOIN LATERAL (
    SELECT t.ts, 1 + (t.i::int - 1) * greatest(h.width, 1) AS at FROM unnest(h.times) WITH ORDINALITY t (ts, i)
 ) d
$$;

-- As before, with what rollups are told by.
CREATE OR REPLACE VIEW sample_place AS
SELECT c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms' AS ts,
       g.cluster, g.hostname, g.uuid AS gpu_uuid, g.gpu_index, g.device, g.model,
       s.metric AS metric_name, u.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       c.t_min, c.t_max, s.metric AS metric_alias, g.id AS gpu_id, c.series_id AS series_id, false AS is_packed
  FROM sample_chunk c
  JOIN series s ON s.id = c.series_id
  JOIN gpu g ON g.id = s.gpu_id
 CROSS JOIN LATERAL unnest(c.offsets, c."values") WITH ORDINALITY u (offset_ms, value, i)
 WHERE c.series_id < 1099511627776
UNION ALL
SELECT c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms',
       g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       m.name, u.value, w.namespace, w.pod, w.container, g.mig_profile, g.mig_instance, w.labels,
       c.t_min, c.t_max, m.alias, g.id, c.series_id, false
  FROM gpu g
  JOIN series_set t ON t.gpu_id = g.id
  JOIN metric_list l ON l.id = t.list_id
  JOIN metric m ON m.id = ANY (l.metrics)
  LEFT JOIN workload w ON w.id = t.workload_id
  JOIN sample_chunk c ON c.series_id = t.id * 64 + array_position(l.metrics, m.id) - 1
 CROSS JOIN LATERAL unnest(c.offsets, c."values") WITH ORDINALITY u (offset_ms, value, i)
 WHERE c.series_id >= 1099511627776
UNION ALL
SELECT b.t_min + coalesce(u.offset_ms, 0) * interval '1 ms',
       g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       s.metric, u.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       b.t_min, b.t_max, s.metric, g.id, b.series_first + u.series, false
  FROM sample_slab b
 CROSS JOIN LATERAL unnest(b.series, b.offsets, b."values") u (series, offset_ms, value)
  JOIN series s ON s.id = b.series_first + u.series
  JOIN gpu g ON g.id = s.gpu_id AND g.id >> 4 = b.block_id
 WHERE b.series_first < 1099511627776
UNION ALL
SELECT b.t_min + coalesce(u.offset_ms, 0) * interval '1 ms',
       g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       m.name, u.value, w.namespace, w.pod, w.container, g.mig_profile, g.mig_instance, w.labels,
       b.t_min, b.t_max, m.alias, g.id, b.series_first + u.series, false
  FROM sample_slab b
 CROSS JOIN LATERAL unnest(b.series, b.offsets, b."values") u (series, offset_ms, value)
  JOIN series_set t ON t.id = (b.series_first + u.series) >> 6
  JOIN gpu g ON g.id = t.gpu_id AND g.id >> 4 = b.block_id
  JOIN metric_list l ON l.id = t.list_id
  JOIN metric m ON m.id = l.metrics[((b.series_first + u.series) & 63) + 1]
  LEFT JOIN workload w ON w.id = t.workload_id
 WHERE b.series_first >= 1099511627776
UNION ALL
SELECT p.ts, g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       s.metric, p.value, s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels,
       p.t_min, p.t_max, s.metric, p.gpu_id, p.series_id, true
  FROM packed_sample p
  JOIN series s ON s.id = p.series_id AND s.gpu_id = p.gpu_id
  JOIN gpu g ON g.id = s.gpu_id
 WHERE p.series_id < 1099511627776
UNION ALL
SELECT p.ts, g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model,
       m.name, p.value, w.namespace, w.pod, w.container, g.mig_profile, g.mig_instance, w.labels,
       p.t_min, p.t_max, m.alias, p.gpu_id, p.series_id, true
  FROM packed_sample p
  JOIN gpu g ON g.id = p.gpu_id
  JOIN series_set t ON t.id = p.series_id >> 6
  JOIN metric_list l ON l.id = t.list_id
  JOIN metric m ON m.id = l.metrics[(p.series_id & 63) + 1]
  LEFT JOIN workload w ON w.id = t.workload_id
 WHERE p.series_id >= 1099511627776;


-- The hour of the UTC day.
CREATE FUNCTION hour_of_day(at timestamptz) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT (((extract(epoch FROM $1)::bigint % 86400) + 86400) % 86400 / 3600)::int
$$;

-- The hour and the UTC day that a time is in.
CREATE FUNCTION hour_at(at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT date_bin('1 hour', $1, '1970-01-01 00:00:00+00') $$;
CREATE FUNCTION day_of(at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT date_bin('1 day', $1, '1970-01-01 00:00:00+00') $$;

-- A sum as a number: infinite where none is as great.
CREATE FUNCTION float8_of_sum(total numeric) RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE WHEN abs($1) <= 1.797693134862315e308::numeric THEN $1::float8 WHEN $1 < 0 THEN '-Infinity'::float8 ELSE 'Infinity'::float8 END
$$;

-- For each length of buckets: the buckets of rollups that hold; the samples that are in none of these; both together; and these between two
-- times. Decimals are added as such, so all is exact.
DO $make$
DECLARE
    made text[];
    buckets text := $buckets$
SELECT b.ts, b.cluster, b.hostname, b.gpu_uuid, b.gpu_index, b.device, b.model, b.metric_name,
       b.n AS count, b.least AS min, b.greatest AS max,
       -- With digits enough that the nearest number is found.
       float8_of_sum((b.total + 0.000000000000000000000000000000) / b.n) AS avg, float8_of_sum(b.total) AS sum,
       b.first, b.last, b.increase, b.bits,
       b.namespace, b.pod, b.container, b.mig_profile, b.mig_instance, b.labels, b.metric_alias
  FROM (
    SELECT r.ts, r.cluster, r.hostname, r.gpu_uuid, r.gpu_index, r.device, r.model, r.metric_name,
           r.n, r.least::float8, r.greatest, r.total, r.first, r.last, r.increase, r.bits,
           r.namespace, r.pod, r.container, r.mig_profile, r.mig_instance, r.labels, r.metric_alias
      FROM rollup_place_NAME r
     WHERE TRUE /* of rollups */
    UNION ALL
    SELECT a.bucket, a.cluster, a.hostname, a.gpu_uuid, a.gpu_index, a.device, a.model, a.metric_name,
           a.n, a.least, a.greatest, a.total, a.all_values[1], a.all_values[a.n],
           -- After a reset a counter counts from zero.
           CASE a.kind WHEN 'counter' THEN (
               SELECT coalesce(sum(CASE WHEN later >= earlier THEN later::numeric - earlier::numeric ELSE later::numeric END), 0)::float8
                 FROM unnest(a.all_values, a.all_values[2:]) u (earlier, later) WHERE later IS NOT NULL
           ) END,
           a.bits, a.namespace, a.pod, a.container, a.mig_profile, a.mig_instance, a.labels, a.metric_alias
      FROM (
        SELECT s.bucket, s.cluster, s.hostname, s.gpu_uuid, s.gpu_index, s.device, s.model, s.metric_name, s.kind,
               count(*) AS n, min(s.value) AS least, max(s.value) AS greatest, sum(s.value::numeric) AS total,
               array_agg(s.value ORDER BY s.ts) AS all_values,
               bit_or(CASE WHEN s.kind = 'mask' AND s.value >= 0 AND s.value < 9e15 THEN s.value::bigint END) AS bits,
               s.namespace, s.pod, s.container, s.mig_profile, s.mig_instance, s.labels, s.metric_alias
          FROM unrolled_place_NAME s
         WHERE TRUE /* of samples */
         GROUP BY s.series_id, s.bucket, s.kind, s.cluster, s.hostname, s.gpu_uuid, s.gpu_index, s.device, s.model, s.metric_name,
                  s.namespace, s.pod, s.container, s.mig_profile, s.mig_instance, s.labels, s.metric_alias
      ) a
  ) b
$buckets$;
BEGIN
    FOREACH made SLICE 1 IN ARRAY ARRAY[['5m', '5 minutes'], ['1h', '1 hour']] LOOP
        EXECUTE replace(replace($view$
CREATE VIEW rollup_place_NAME AS
SELECT p.ts, g.cluster, g.hostname, g.uuid AS gpu_uuid, g.gpu_index, g.device, g.model, s.metric AS metric_name,
       p.n, p.least, (p.least + p.range)::float8 AS greatest, p.n * p.least + p.excess AS total,
       (p.least + p.first)::float8 AS first, (p.least + p.range - p.last)::float8 AS last,
       CASE k.kind WHEN 'counter' THEN (p.range - p.last - p.first + p.more)::float8 END AS increase,
       CASE k.kind WHEN 'mask' THEN (p.least + p.range + p.more)::bigint END AS bits,
       s.namespace, s.pod, s.container, g.mig_profile, g.mig_instance, s.labels, s.metric AS metric_alias, r.t_min, r.t_max
  FROM sample_rollup_NAME r
  JOIN gpu g ON g.id = r.gpu_id
 CROSS JOIN LATERAL (
        SELECT u.id >> 3 AS series_id, u.ts,
               max(u.value) FILTER (WHERE u.id & 7 = 0)::bigint AS n, max(u.value) FILTER (WHERE u.id & 7 = 1)::numeric AS least,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 2), 0)::numeric AS range,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 3), 0)::numeric AS excess,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 4), 0)::numeric AS first,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 5), 0)::numeric AS last,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 7), 0)::numeric AS more
          FROM rollup_columns(r.heads, r.bits, r.n, r.k, r.series_first, r.t_min) u
         GROUP BY u.id >> 3, u.ts
      ) p
  JOIN series s ON s.id = p.series_id
  LEFT JOIN metric_kind k ON k.name = s.metric
 WHERE r.series_first < 8796093022208 AND EXISTS (SELECT FROM series) AND p.series_id < 1099511627776
   AND r.series_last < 9223372036854775807
   AND NOT EXISTS (SELECT FROM sample_chunk c WHERE c.series_id = p.series_id AND c.t_max >= hour_at(p.ts)
                      AND c.t_min < hour_at(p.ts) + interval '1 hour' AND c.t_min >= day_of(p.ts))
   AND NOT EXISTS (SELECT FROM sample_slab b WHERE b.block_id = r.gpu_id >> 4 AND b.t_max >= hour_at(p.ts)
                      AND b.t_min < hour_at(p.ts) + interval '1 hour' AND b.t_min >= day_of(p.ts))
UNION ALL
SELECT p.ts, g.cluster, g.hostname, g.uuid, g.gpu_index, g.device, g.model, m.name,
       p.n, p.least, (p.least + p.range)::float8 AS greatest, p.n * p.least + p.excess AS total,
       (p.least + p.first)::float8 AS first, (p.least + p.range - p.last)::float8 AS last,
       CASE k.kind WHEN 'counter' THEN (p.range - p.last - p.first + p.more)::float8 END AS increase,
       CASE k.kind WHEN 'mask' THEN (p.least + p.range + p.more)::bigint END AS bits,
       w.namespace, w.pod, w.container, g.mig_profile, g.mig_instance, w.labels, m.alias, r.t_min, r.t_max
  FROM sample_rollup_NAME r
  JOIN gpu g ON g.id = r.gpu_id
 CROSS JOIN LATERAL (
        SELECT u.id >> 3 AS series_id, u.ts,
               max(u.value) FILTER (WHERE u.id & 7 = 0)::bigint AS n, max(u.value) FILTER (WHERE u.id & 7 = 1)::numeric AS least,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 2), 0)::numeric AS range,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 3), 0)::numeric AS excess,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 4), 0)::numeric AS first,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 5), 0)::numeric AS last,
               coalesce(max(u.value) FILTER (WHERE u.id & 7 = 7), 0)::numeric AS more
          FROM rollup_columns(r.heads, r.bits, r.n, r.k, r.series_first, r.t_min) u
         GROUP BY u.id >> 3, u.ts
      ) p
  JOIN series_set t ON t.id = p.series_id >> 6
  JOIN metric_list l ON l.id = t.list_id
  JOIN metric m ON m.id = l.metrics[(p.series_id & 63) + 1]
  LEFT JOIN workload w ON w.id = t.workload_id
  LEFT JOIN metric_kind k ON k.name = m.name
 WHERE EXISTS (SELECT FROM series_set) AND p.series_id >= 1099511627776
   AND r.series_last < 9223372036854775807
   AND NOT EXISTS (SELECT FROM sample_chunk c WHERE c.series_id = p.series_id AND c.t_max >= hour_at(p.ts)
                      AND c.t_min < hour_at(p.ts) + interval '1 hour' AND c.t_min >= day_of(p.ts))
   AND NOT EXISTS (SELECT FROM sample_slab b WHERE b.block_id = r.gpu_id >> 4 AND b.t_max >= hour_at(p.ts)
                      AND b.t_min < hour_at(p.ts) + interval '1 hour' AND b.t_min >= day_of(p.ts));

-- Those in chunks and slabs; and of packed rows those of hours without a cover, or with chunks or slabs, and those of series that a cover
-- leaves out. Rows that have none of these are not unpacked.
CREATE VIEW unrolled_place_NAME AS
SELECT s.*, date_bin('LENGTH', s.ts, '1970-01-01 00:00:00+00') AS bucket, k.kind
  FROM sample_place s
  LEFT JOIN metric_kind k ON k.name = s.metric_name
 WHERE NOT s.is_packed
    OR (
        ((2 << hour_of_day(s.t_max)) - (1 << hour_of_day(s.t_min)))
            & ~coalesce((SELECT bit_or(c.hours) FROM sample_rollup_NAME c
                   WHERE c.gpu_id = s.gpu_id AND c.series_last = 9223372036854775807
                     AND c.t_min >= day_of(s.t_min) AND c.t_min < day_of(s.t_min) + interval '1 day'), 0) <> 0
        OR EXISTS (SELECT FROM sample_rollup_NAME c
                   WHERE c.gpu_id = s.gpu_id AND c.series_last = 9223372036854775807
                     AND c.t_min >= day_of(s.t_min) AND c.t_min < day_of(s.t_min) + interval '1 day' AND c.k > 0)
        OR EXISTS (SELECT FROM sample_slab b WHERE b.block_id = s.gpu_id >> 4 AND b.t_max >= hour_at(s.t_min)
                      AND b.t_min < hour_at(s.t_max) + interval '1 hour' AND b.t_min >= day_of(s.t_min))
        OR EXISTS (SELECT FROM series_all o JOIN sample_chunk c ON c.series_id = o.id WHERE o.gpu_id = s.gpu_id
                      AND c.t_max >= hour_at(s.t_min) AND c.t_min < hour_at(s.t_max) + interval '1 hour'
                      AND c.t_min >= day_of(s.t_min))
    ) AND (
        coalesce((SELECT bit_or(c.hours) FROM sample_rollup_NAME c
                   WHERE c.gpu_id = s.gpu_id AND c.series_last = 9223372036854775807
                     AND c.t_min >= day_of(s.t_min) AND c.t_min < day_of(s.t_min) + interval '1 day'), 0) >> hour_of_day(s.ts) & 1 = 0
        OR EXISTS (SELECT FROM sample_rollup_NAME c, generate_series(0, c.k - 1) i
                   WHERE c.gpu_id = s.gpu_id AND c.series_last = 9223372036854775807
                     AND c.t_min >= day_of(s.t_min) AND c.t_min < day_of(s.t_min) + interval '1 day' AND c.k > 0
                     AND c.hours >> hour_of_day(s.ts) & 1 = 1 AND substring(c.bits, 1 + i * 64, 64)::bigint = s.series_id)
        OR EXISTS (SELECT FROM sample_slab b WHERE b.block_id = s.gpu_id >> 4 AND b.t_max >= hour_at(s.ts)
                      AND b.t_min < hour_at(s.ts) + interval '1 hour' AND b.t_min >= day_of(s.ts))
        OR EXISTS (SELECT FROM sample_chunk c WHERE c.series_id = s.series_id AND c.t_max >= hour_at(s.ts)
                      AND c.t_min < hour_at(s.ts) + interval '1 hour' AND c.t_min >= day_of(s.ts))
    );
$view$, 'NAME', made[1]), 'LENGTH', made[2]);

        EXECUTE replace(replace(replace(replace($view$
CREATE VIEW samples_NAME AS BUCKETS;

CREATE FUNCTION samples_NAME_between("from" timestamptz, "to" timestamptz)
RETURNS TABLE (
    ts timestamptz, cluster text, hostname text, gpu_uuid text, gpu_index int, device text, model text, metric_name text,
    count bigint, min float8, max float8, avg float8, sum float8, first float8, last float8, increase float8, bits bigint,
    namespace text, pod text, container text, mig_profile text, mig_instance text, labels jsonb, metric_alias text
)
LANGUAGE sql STABLE PARALLEL SAFE AS $function$ BETWEEN $function$;
$view$, 'BETWEEN', replace(replace(buckets,
                'TRUE /* of rollups */', 'r.t_min >= day_of($1) AND r.t_min <= $2 AND r.t_max >= $1 AND r.ts BETWEEN $1 AND $2'),
                'TRUE /* of samples */', 's.t_min >= day_of($1) AND s.t_min < date_bin(''LENGTH'', $2, ''1970-01-01 00:00:00+00'') + interval ''LENGTH'' AND s.t_max >= $1 AND s.bucket BETWEEN $1 AND $2')),
            'BUCKETS', buckets), 'NAME', made[1]), 'LENGTH', made[2]);
    END LOOP;
END
$make$;
