-- Appends an identity, if the list is what the caller saw (in whatever order).
-- KEYS: 1 registry
-- ARGV: 1 the new identity, 2.. the identities that the caller saw
-- Returns {'done'} or {'changed', identity...}.

local list = redis.call('LRANGE', KEYS[1], 0, -1)
local seen = {}
for i = 2, #ARGV do seen[ARGV[i]] = (seen[ARGV[i]] or 0) + 1 end
local same = #list == #ARGV - 1
for _, identity in ipairs(list) do
  same = same and (seen[identity] or 0) > 0
  seen[identity] = (seen[identity] or 0) - 1
end
if not same then
  table.insert(list, 1, 'changed')
  return list
end
redis.call('RPUSH', KEYS[1], ARGV[1])
return {'done'}
