-- Whether an entry is in the stream; its payload stays there.
-- KEYS: 1 stream
-- ARGV: 1 entry id
-- Returns 1 or 0.

return #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
