-- Marks the store that a group commits to, unless a well-formed mark is there: a malformed one says nothing, and is written over.
-- docs/protocol.md: a mark that arrives after everything was set back, which draws a new generation, is not written.
-- KEYS: 1 meta
-- ARGV: 1 the mark's field, 2 the generation's field, 3 mark ('' = only look), 4 the generation that the caller saw ('' = none)
-- Returns {mark, generation}: what is there now, nil where nothing is; of what is too long for either the beginning.

local mark, generation = redis.call('HGET', KEYS[1], ARGV[1]), redis.call('HGET', KEYS[1], ARGV[2])
if ARGV[3] ~= '' and not (mark and is_mark(mark)) then
  local seen = generation and is_mark(generation) and generation or ''
  if seen == ARGV[4] then
    -- A full Redis allows this, and allows what follows a first write: only collectors make room, and this is where they begin.
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
    mark = ARGV[3]
  end
end
return {mark and string.sub(mark, 1, 1000), generation and string.sub(generation, 1, 1000)}
