-- Marks the store that a group commits to, unless a well-formed mark is there: a malformed one says nothing, and is written over.
-- KEYS: 1 meta
-- ARGV: 1 field, 2 mark ('' = only look)
-- Returns what is there now, of what is too long for a mark the beginning; nothing where nothing is.

local known = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] == '' then return known and string.sub(known, 1, 1000) end
if known and is_mark(known) then return known end
-- A full Redis allows this, and allows what follows a first write: only collectors make room, and this is where they begin.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
