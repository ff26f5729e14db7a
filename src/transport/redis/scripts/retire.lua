-- Takes a group away that is gone for good, and trims what the others have done with.
-- KEYS: 1 stream, 2 the group's committed
-- ARGV: 1 group, 2 idle time in ms below which a consumer counts as active ('0' = none does)
-- Returns {'none'}, {'active', consumer, its idle time} or {'retired', entries that the group had not acknowledged, entries trimmed}.
--
-- Redis allows each of its writes when it is full: that is when a group that nobody reads for is noticed.

local group = group_of(KEYS[1], ARGV[1])
if not group then return {'none'} end
for _, raw in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #raw, 2 do consumer[raw[i]] = raw[i + 1] end
  if consumer['idle'] < tonumber(ARGV[2]) then return {'active', consumer['name'], consumer['idle']} end
end
local open = unacknowledged(KEYS[1], group)
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return {'retired', open, trim(KEYS[1])}
