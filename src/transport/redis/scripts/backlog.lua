-- How much waits.
-- KEYS: 1 stream
-- ARGV: 1 group
-- Returns {entries not acknowledged, those of them that were read, age of the oldest in ms as text}.

local pending, waiting, oldest = 0, redis.call('XLEN', KEYS[1]), '-'
local group = group_of(KEYS[1], ARGV[1])
if group then
  pending = group['pending']
  waiting = unacknowledged(KEYS[1], group)
  oldest = needed_by(KEYS[1], group)
end
if waiting == 0 then return {0, 0, '0'} end

if pending == 0 then
  local entry = redis.call('XRANGE', KEYS[1], oldest, '+', 'COUNT', 1)[1]
  if not entry then return {0, 0, '0'} end
  oldest = entry[1]
end
local time = redis.call('TIME')
local age = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - split(oldest)
return {waiting, pending, string.format('%.0f', math.max(age, 0))}
