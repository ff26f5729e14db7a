-- Takes or renews a lease.
-- docs/protocol.md: a lease saves work, and protects nothing.
-- KEYS: 1 lease, 2 positions
-- ARGV: 1 owner, 2 ttl in ms, 3 source
-- Returns {'held'[, position]} ('' in place of what is none) or {'taken'}. PEXPIRE, not SET, renews: it works when Redis is full.

local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif owner then
  -- One that never ends was not taken by a streamer: it ends as others do.
  redis.call('PEXPIRE', KEYS[1], ARGV[2], 'NX')
  return {'taken'}
else
  redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
end
local position = redis.call('HGET', KEYS[2], ARGV[3])
if position then return {'held', is_position(position) and position or ''} end
return {'held'}
