-- For readers. t_min in the index lets a range of chunks be found without looking at those that begin later: a history is read in
-- slices, and each slice would otherwise visit all that follows it in its day.
DROP INDEX sample_chunk_series;
CREATE INDEX sample_chunk_series ON sample_chunk (series_id, t_max, t_min);
