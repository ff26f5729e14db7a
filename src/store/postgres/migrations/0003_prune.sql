-- For people. With a bound that is not immutable (date_trunc of a timestamptz is not) the planner keeps every day, and each is locked
-- before it is left out: thousands of days are more locks than a server has. These bounds are known while planning.
CREATE OR REPLACE FUNCTION samples_between("from" timestamptz, "to" timestamptz)
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
 WHERE c.t_min >= timezone('UTC', date_trunc('day', timezone('UTC', $1))) AND c.t_min <= $2 AND c.t_max >= $1
   AND c.t_min + coalesce(u.offset_ms, (u.i - 1) * c.step_ms) * interval '1 ms' BETWEEN $1 AND $2
$$;
