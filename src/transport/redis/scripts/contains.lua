-- Whether an entry is in the stream; its payload stays there. After a failover to a server whose clock is behind, another entry may have got
-- its id: its source and rows tell.
-- KEYS: 1 stream
-- ARGV: 1 entry id, 2 source ('' = any), 3 first row, 4 row behind the last
-- Returns 1 or 0.

local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
if ARGV[2] == '' then return 1 end
local fields = {}
for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
if fields['s'] == ARGV[2] and fields['f'] == ARGV[3] and fields['e'] == ARGV[4] then return 1 end
return 0
