-- Forgets one source; or all, and the mark of the group's store, whose generation is another one from then on: a mark that was on its way is
-- not written any more.
-- KEYS: 1 positions, 2 committed, 3 meta
-- ARGV: 1 source ('' = all), then for all: 2 the mark's field, 3 the generation's field, 4 the new generation
-- Returns how many sources were known.

if ARGV[1] ~= '' then
  local known = redis.call('HDEL', KEYS[1], ARGV[1]) + redis.call('HDEL', KEYS[2], ARGV[1])
  return math.min(known, 1)
end
local known = redis.call('HLEN', KEYS[1])
for _, source in ipairs(redis.call('HKEYS', KEYS[2])) do
  if redis.call('HEXISTS', KEYS[1], source) == 0 then known = known + 1 end
end
-- A full Redis allows this, and allows what follows a first write.
redis.call('HDEL', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('DEL', KEYS[1], KEYS[2])
return known
