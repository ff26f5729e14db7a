-- Removes dictionaries that no entry left in the stream refers to.
-- KEYS: 1 stream, 2 dicts, 3.. candidates
-- ARGV: 1 how long they must have been unused (ms), then for each candidate: digest, the id of its last use that the caller saw
-- Returns how many were removed. One that was used again since the caller looked stays.

local bound = nil
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if oldest then
  bound = oldest[1]
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  bound = redis.call('XINFO', 'STREAM', KEYS[1])[8]
end

local now = now_ms()
local removed = 0
for i = 3, #KEYS do
  local digest, seen = ARGV[2 + (i - 3) * 2], ARGV[3 + (i - 3) * 2]
  local ms = split(seen)
  local unused = ms and (bound == nil or less(seen, bound))
  if unused and tonumber(ms) + tonumber(ARGV[1]) <= now and redis.call('HGET', KEYS[2], digest) == seen then
    redis.call('DEL', KEYS[i])
    redis.call('HDEL', KEYS[2], digest)
    removed = removed + 1
  end
end
return removed
