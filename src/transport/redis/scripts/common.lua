-- Put before every script. What is in Redis may be anybody's: a value that is not what it should be is passed over, and nothing here
-- fails because of it. docs/protocol.md states the protocol that the scripts are part of.

-- Numbers of 64 bits stay text: a Lua number holds 53 of them. All are decimal, without leading zeros, as Redis writes them.
local GREATEST = '18446744073709551615'

local function number_less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function is_number(text)
  if not string.find(text, '^%d+$') or (#text > 1 and string.sub(text, 1, 1) == '0') then return false end
  return not number_less(GREATEST, text)
end

local function number_following(n)
  local head, nines = string.match(n, '^(.-)(9*)$')
  local zeros = string.rep('0', #nines)
  if head == '' then return '1' .. zeros end
  return string.sub(head, 1, -2) .. string.char(string.byte(head, -1) + 1) .. zeros
end

local function is_digest(text)
  return #text == 32 and string.find(text, '^[0-9a-f]+$') ~= nil
end

-- row:offset:digest
local function is_position(text)
  if #text > 80 then return false end
  local row, offset, digest = string.match(text, '^(%d+):(%d+):(%x+)$')
  return row ~= nil and is_number(row) and is_number(offset) and is_digest(digest)
end

-- length:digest:source
local function is_identity(text)
  if #text > 100 then return false end
  local length, digest, source = string.match(text, '^(%d+):(%x+):(%x+)$')
  return length ~= nil and is_number(length) and is_digest(digest) and is_digest(source)
end

-- A store's mark, or its generation: a UUID.
local function is_mark(text)
  if #text ~= 36 then return false end
  local a, b, c, d, e = string.match(text, '^([0-9a-f]+)%-([0-9a-f]+)%-([0-9a-f]+)%-([0-9a-f]+)%-([0-9a-f]+)$')
  return a ~= nil and #a == 8 and #b == 4 and #c == 4 and #d == 4 and #e == 12
end

-- An entry id's milliseconds and sequence; nil where it is none.
local function split(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  if ms == nil or not is_number(ms) or not is_number(sequence) then return nil end
  return ms, sequence
end

local function less(a, b)
  local a_ms, a_sequence = split(a)
  local b_ms, b_sequence = split(b)
  if a_ms ~= b_ms then return number_less(a_ms, b_ms) end
  return number_less(a_sequence, b_sequence)
end

-- The id after this one; nil after the greatest.
local function following(id)
  local ms, sequence = split(id)
  if sequence ~= GREATEST then return ms .. '-' .. number_following(sequence) end
  if ms ~= GREATEST then return number_following(ms) .. '-0' end
  return nil
end

-- Whether a key holds a hash, or nothing yet.
local function is_hash(key)
  local answer = redis.pcall('HGET', key, '')
  return type(answer) ~= 'table' or not string.find(answer['err'], 'WRONGTYPE', 1, true)
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

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function age_ms(id)
  return math.max(now_ms() - tonumber((split(id))), 0)
end

-- Whether the group stands ahead of the stream's last entry, where somebody has set it: what it is said to have read was never there, so it
-- counts as having read nothing. XINFO STREAM shows entries and is asked only where an id lies in the future.
local function is_ahead(stream, group)
  local at = group['last-delivered-id']
  if tonumber((split(at))) <= now_ms() then return false end
  return less(redis.call('XINFO', 'STREAM', stream)[8], at)
end

-- The lowest id that the group has not done with; nil where there is none, and never will be.
local function needed_by(stream, group)
  if group['pending'] > 0 then
    return redis.call('XPENDING', stream, group['name'])[2]
  end
  if is_ahead(stream, group) then return '0-0' end
  return following(group['last-delivered-id'])
end

-- How many entries the group has not acknowledged. Where the server cannot say how many it has not read yet (before Redis 7,
-- or after a deletion by hand), everything that is left in the stream counts.
local function unacknowledged(stream, group)
  if is_ahead(stream, group) then return math.max(group['pending'], redis.call('XLEN', stream)) end
  if type(group['lag']) == 'number' then return group['pending'] + group['lag'] end
  if not less(group['last-delivered-id'], redis.call('XINFO', 'STREAM', stream)[8]) then return group['pending'] end
  return redis.call('XLEN', stream)
end

-- What a group has not acknowledged: entries, those of them that were read, the age of the oldest in ms. No group has read nothing.
local function waiting(stream, group)
  local pending, entries, oldest = 0, redis.call('XLEN', stream), '-'
  if group then
    pending = group['pending']
    entries = unacknowledged(stream, group)
    oldest = needed_by(stream, group)
  end
  if entries == 0 or oldest == nil then return 0, 0, 0 end
  if pending == 0 then
    local entry = redis.call('XRANGE', stream, oldest, '+', 'COUNT', 1)[1]
    if not entry then return 0, 0, 0 end
    oldest = entry[1]
  end
  return entries, pending, age_ms(oldest)
end

-- Trims what every group has done with; nothing when there is no group. Returns how many entries went.
local function trim(stream)
  local from, groups = nil, groups_of(stream)
  if #groups == 0 then return 0 end
  for _, group in ipairs(groups) do
    local needed = needed_by(stream, group)
    if needed ~= nil and (from == nil or less(needed, from)) then from = needed end
  end
  if from == nil then return redis.call('XTRIM', stream, 'MAXLEN', '=', 0) end
  return redis.call('XTRIM', stream, 'MINID', '=', from)
end
