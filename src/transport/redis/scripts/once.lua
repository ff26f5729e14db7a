-- Sets a field of a hash, unless it is set. Returns what it is now; of what is too long for anything that is set here, the beginning.
-- KEYS: 1 hash
-- ARGV: 1 field, 2 value

local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then return string.sub(known, 1, 1000) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
