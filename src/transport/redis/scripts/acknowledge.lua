-- Acknowledges entries, notes how far sources are stored, trims.
-- docs/protocol.md: only what is stored is acknowledged, only what every group has acknowledged is trimmed.
-- KEYS: 1 stream, 2 committed
-- ARGV: 1 group, 2 number of entries, then their ids, then for each source: source, row
-- Returns {acknowledged, trimmed, 1 or 0: whether `committed` could be noted}.
--
-- XACK comes first: a full Redis allows it, and allows what follows a first write.

local count = tonumber(ARGV[2])
local acknowledged = 0
if count == 0 then redis.call('XACK', KEYS[1], ARGV[1], '0-0') end
for i = 3, count + 2 do
  acknowledged = acknowledged + redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
end

-- A `committed` that is no hash keeps nothing from being acknowledged and trimmed; what is noted in place of a row is written over.
local noted = #ARGV == count + 2 or is_hash(KEYS[2])
for i = count + 3, noted and #ARGV or 0, 2 do
  local old, new = redis.call('HGET', KEYS[2], ARGV[i]), ARGV[i + 1]
  if not old or not is_number(old) or number_less(old, new) then redis.call('HSET', KEYS[2], ARGV[i], new) end
end

return {acknowledged, trim(KEYS[1]), noted and 1 or 0}
