-- Forgets one source, or all.
-- KEYS: 1 positions, 2 committed
-- ARGV: 1 source ('' = all)
-- Returns how many sources were known.

if ARGV[1] ~= '' then
  local known = redis.call('HDEL', KEYS[1], ARGV[1]) + redis.call('HDEL', KEYS[2], ARGV[1])
  return math.min(known, 1)
end
local known = redis.call('HLEN', KEYS[1])
for _, source in ipairs(redis.call('HKEYS', KEYS[2])) do
  if redis.call('HEXISTS', KEYS[1], source) == 0 then known = known + 1 end
end
redis.call('DEL', KEYS[1], KEYS[2])
return known
