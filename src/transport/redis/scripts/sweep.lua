-- Removes dictionaries that no entry left in the stream refers to.
-- KEYS: 1 stream, 2 dicts, 3.. candidates
-- ARGV: 1 how long they must have been unused (ms), then for each candidate: digest, the id of its last use that the caller saw
-- Returns how many were removed. One that was used again since the caller looked stays.

-- That nothing refers to one is known without reading an entry (its payload would come with it). What every group has done with is trimmed
-- first. So each entry left is needed by some group, and has at least the lowest id that any of them needs; what was last used before that
-- id is used by none of them, nor by a group that is made later and begins with what is left. A group without pending entries needs what
-- comes after its last delivered one; here that entry itself is the bound, so that the dictionary that was used last stays although
-- the queue is empty: the next batch needs it. Without a group all that is in the stream is kept for those to come.

trim(KEYS[1])
local bound = nil
for _, group in ipairs(groups_of(KEYS[1])) do
  local needed = needed_by(KEYS[1], group) or '0-0'
  if group['pending'] == 0 and needed ~= '0-0' then needed = group['last-delivered-id'] end
  if bound == nil or less(needed, bound) then bound = needed end
end
if bound == nil and redis.call('XLEN', KEYS[1]) > 0 then return 0 end

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
