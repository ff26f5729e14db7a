-- Appends an identity, if the list is what the caller saw (in whatever order). What is no identity is passed over.
-- KEYS: 1 registry
-- ARGV: 1 the new identity ('' = only look), 2.. the identities that the caller saw
-- Returns {'done', items passed over} or {'changed', items passed over, identity...}.

local list, strange = {}, 0
for _, item in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  if is_identity(item) then list[#list + 1] = item else strange = strange + 1 end
end
local seen = {}
for i = 2, #ARGV do seen[ARGV[i]] = (seen[ARGV[i]] or 0) + 1 end
local same = ARGV[1] ~= '' and #list == #ARGV - 1
for _, identity in ipairs(list) do
  same = same and (seen[identity] or 0) > 0
  seen[identity] = (seen[identity] or 0) - 1
end
if not same then
  table.insert(list, 1, strange)
  table.insert(list, 1, 'changed')
  return list
end
redis.call('RPUSH', KEYS[1], ARGV[1])
return {'done', strange}
