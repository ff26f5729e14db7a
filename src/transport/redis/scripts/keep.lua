-- Resets the idle time of entries that are still this consumer's; those that another has taken stay the other's.
-- KEYS: 1 stream
-- ARGV: 1 group, 2 consumer, then entry ids
-- Returns how many were kept.

if not group_of(KEYS[1], ARGV[1]) then return 0 end
local kept = 0
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[2] then
    kept = kept + #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
return kept
