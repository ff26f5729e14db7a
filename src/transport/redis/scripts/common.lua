-- Put before every script. Entry ids are compared as numbers (milliseconds, then sequence), never as text.

local function split(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local function less(a, b)
  local a_ms, a_seq = split(a)
  local b_ms, b_seq = split(b)
  if a_ms ~= b_ms then return a_ms < b_ms end
  return a_seq < b_seq
end

local function following(id)
  local ms, seq = split(id)
  return string.format('%.0f-%.0f', ms, seq + 1)
end

-- The stream's groups, each a table by field name; none when there is no stream.
local function groups_of(stream)
  local groups = {}
  if redis.call('EXISTS', stream) == 0 then return groups end
  for _, raw in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #raw, 2 do group[raw[i]] = raw[i + 1] end
    groups[#groups + 1] = group
  end
  return groups
end

local function group_of(stream, name)
  for _, group in ipairs(groups_of(stream)) do
    if group['name'] == name then return group end
  end
  return nil
end

-- The lowest id that the group has not done with.
local function needed_by(stream, group)
  if group['pending'] > 0 then
    return redis.call('XPENDING', stream, group['name'])[2]
  end
  return following(group['last-delivered-id'])
end

-- How many entries the group has not acknowledged. Where the server cannot say how many it has not read yet (before Redis 7,
-- or after a deletion by hand), everything that is left in the stream counts.
local function unacknowledged(stream, group)
  if type(group['lag']) == 'number' then return group['pending'] + group['lag'] end
  if not less(group['last-delivered-id'], redis.call('XINFO', 'STREAM', stream)[8]) then return group['pending'] end
  return redis.call('XLEN', stream)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- What a group has not acknowledged: entries, those of them that were read, the age of the oldest in ms. No group has read nothing.
local function waiting(stream, group)
  local pending, entries, oldest = 0, redis.call('XLEN', stream), '-'
  if group then
    pending = group['pending']
    entries = unacknowledged(stream, group)
    oldest = needed_by(stream, group)
  end
  if entries == 0 then return 0, 0, 0 end
  if pending == 0 then
    local entry = redis.call('XRANGE', stream, oldest, '+', 'COUNT', 1)[1]
    if not entry then return 0, 0, 0 end
    oldest = entry[1]
  end
  return entries, pending, math.max(now_ms() - split(oldest), 0)
end

-- Trims what every group has done with; nothing when there is no group. Returns how many entries went.
local function trim(stream)
  local from = nil
  for _, group in ipairs(groups_of(stream)) do
    local needed = needed_by(stream, group)
    if from == nil or less(needed, from) then from = needed end
  end
  if from == nil then return 0 end
  return redis.call('XTRIM', stream, 'MINID', '=', from)
end
