-- Appends a batch, if the queue stands where the publisher thinks it stands in the source.
-- docs/protocol.md: a position moves only with its entry.
-- KEYS: 1 stream, 2 positions, 3 dicts, 4.. the dictionaries the batch refers to
-- ARGV: 1 source, 2 expected position ('' = the source is unknown), 3 next position, 4 first row, 5 end row, 6 backlog limit,
--       7 group, 8 payload, then for each dictionary: digest, '1' or '0' (sent with the batch or not), its bytes
-- Returns {'accepted'}, {'moved'[, position]}, {'full'} or {'need', digest...}.
--
-- Redis looks at maxmemory only at a script's first write. So everything that can be wrong is found by reading, and the first write,
-- whichever it is, is one that a full Redis refuses: either nothing is written or all of it.

-- What is no position says nothing: the source counts as unknown, as if Redis had lost it. It is then sent again from its start, which
-- loses nothing and stores nothing twice; the next position is written over it.
local stored = redis.call('HGET', KEYS[2], ARGV[1])
if stored and not is_position(stored) then stored = false end
if (stored or '') ~= ARGV[2] then
  if stored then return {'moved', stored} end
  return {'moved'}
end

-- An error here (a key of another type) comes before anything is written.
redis.call('HLEN', KEYS[3])
local length = redis.call('XLEN', KEYS[1])

local limit = tonumber(ARGV[6])
if length >= limit then
  local backlog = 0
  local groups = groups_of(KEYS[1])
  for _, group in ipairs(groups) do
    -- Where the server cannot say how many a group has not read, all that is left counts: XINFO STREAM knows more, and shows entries,
    -- which whoever publishes has no right to read.
    backlog = math.max(backlog, type(group['lag']) == 'number' and group['pending'] + group['lag'] or length)
  end
  if #groups == 0 then backlog = length end
  if backlog >= limit then return {'full'} end
end

local need = {'need'}
for i = 4, #KEYS do
  local at = 9 + (i - 4) * 3
  if ARGV[at + 1] == '0' and redis.call('EXISTS', KEYS[i]) == 0 then need[#need + 1] = ARGV[at] end
end
if #need > 1 then return need end

-- From the beginning of the stream, so that a group made late still sees everything.
if not group_of(KEYS[1], ARGV[7]) then
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[7], '0', 'MKSTREAM')
end
for i = 4, #KEYS do
  local at = 9 + (i - 4) * 3
  -- Not SET, which could read and overwrite: no publisher has a right to that.
  if ARGV[at + 1] == '1' then redis.call('SETNX', KEYS[i], ARGV[at + 2]) end
end
local id = redis.call('XADD', KEYS[1], '*', 's', ARGV[1], 'f', ARGV[4], 'e', ARGV[5], 'd', ARGV[8])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
for i = 4, #KEYS do redis.call('HSET', KEYS[3], ARGV[9 + (i - 4) * 3], id) end
return {'accepted'}
