-- How a partition and its groups are.
-- KEYS: 1 stream
-- ARGV: 1 our group, 2 how many consumers of each group are listed, those heard of last
-- Returns {entries kept, entries ever added (-1: the server does not say), age of the newest in ms (-1: there never was one),
--   the group for whose sake alone entries are kept or '', {what our group has not acknowledged, as backlog gives it},
--   then for each group: {name, entries not acknowledged, those read, age of the oldest, consumers,
--   1 or 0: whether it stands ahead of the stream's last entry, then name, pending, idle of each consumer}}.

local stream, most = KEYS[1], tonumber(ARGV[2])
local groups = groups_of(stream)
local length, added, newest = redis.call('XLEN', stream), -1, -1
if redis.call('EXISTS', stream) == 1 then
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'entries-added' then added = info[i + 1] end
    if info[i] == 'last-generated-id' and info[i + 1] ~= '0-0' then newest = age_ms(info[i + 1]) end
  end
end

-- The two ids that are needed longest: what lies between them is kept for one group.
local first, second, holder = nil, nil, ''
for _, group in ipairs(groups) do
  -- One that needs nothing more holds nothing, and stands after every entry.
  local needed = needed_by(stream, group) or GREATEST .. '-' .. GREATEST
  if first == nil or less(needed, first) then
    first, second, holder = needed, first, group['name']
  elseif second == nil or less(needed, second) then
    second = needed
  end
end
if second == nil or not less(first, second) then
  holder = ''
else
  local entry = redis.call('XRANGE', stream, first, '(' .. second, 'COUNT', 1)[1]
  if not entry then holder = '' end
end

local answer = {length, added, newest, holder, {waiting(stream, group_of(stream, ARGV[1]))}}
for _, group in ipairs(groups) do
  local entries, pending, oldest = waiting(stream, group)
  local one = {group['name'], entries, pending, oldest, group['consumers'], is_ahead(stream, group) and 1 or 0}
  if most > 0 and group['consumers'] > 0 then
    local consumers = {}
    for _, raw in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group['name'])) do
      local consumer = {}
      for i = 1, #raw, 2 do consumer[raw[i]] = raw[i + 1] end
      consumers[#consumers + 1] = consumer
    end
    table.sort(consumers, function(a, b) return a['idle'] < b['idle'] end)
    for i = 1, math.min(most, #consumers) do
      one[#one + 1] = consumers[i]['name']
      one[#one + 1] = consumers[i]['pending']
      one[#one + 1] = consumers[i]['idle']
    end
  end
  answer[#answer + 1] = one
end
return answer
