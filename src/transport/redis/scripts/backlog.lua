-- How much waits.
-- KEYS: 1 stream
-- ARGV: 1 group
-- Returns {entries not acknowledged, those of them that were read, age of the oldest in ms}.

return {waiting(KEYS[1], group_of(KEYS[1], ARGV[1]))}
