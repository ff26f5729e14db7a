-- Acknowledges entries, notes how far sources are stored, trims.
-- KEYS: 1 stream, 2 committed
-- ARGV: 1 group, 2 number of entries, then their ids, then for each source: source, row
-- Returns {acknowledged, trimmed}.
--
-- XACK comes first: a full Redis allows it, and allows what follows a first write.

local count = tonumber(ARGV[2])
local acknowledged = 0
if count == 0 then redis.call('XACK', KEYS[1], ARGV[1], '0-0') end
for i = 3, count + 2 do
  acknowledged = acknowledged + redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
end

-- Rows are whole numbers in decimal, up to 64 bits: more than a Lua number holds.
for i = count + 3, #ARGV, 2 do
  local old, new = redis.call('HGET', KEYS[2], ARGV[i]), ARGV[i + 1]
  if not old or #old < #new or (#old == #new and old < new) then redis.call('HSET', KEYS[2], ARGV[i], new) end
end

return {acknowledged, trim(KEYS[1])}
