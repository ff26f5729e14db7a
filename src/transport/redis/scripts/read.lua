-- Reads entries that the consumer has pending, and resets their idle time. What killed who had it before may be among them, so nothing of
-- an entry is returned but what a batch is made of, and of a payload that is too long only its length.
-- docs/protocol.md: what is pending comes again.
-- KEYS: 1 stream
-- ARGV: 1 group, 2 consumer, 3 the greatest length of a payload that is returned, 4 bytes of payloads in one answer about, then entry ids
-- Returns nothing when the group is gone, else {how many of the ids were looked at, at least one,
--   then for each of those that is still this consumer's: {id, false} where the entry was deleted, else {id, fields and values}, and
--   behind them the payload's length where it is too long}.

local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local longest, most = tonumber(ARGV[3]), tonumber(ARGV[4])
if not group_of(stream, group) then return false end

local function short(text)
  return #text <= 64 and text or ''
end

local answer, bytes = {0}, 0
for i = 5, #ARGV do
  -- One that is too long counts as well: it took Redis as much time as if it had been returned.
  if bytes >= most then break end
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  if pending and pending[2] == consumer then
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if entry then
      local batch = {s = '', f = '', e = '', d = ''}
      for n = 1, #entry[2], 2 do
        if batch[entry[2][n]] then batch[entry[2][n]] = entry[2][n + 1] end
      end
      local payload = batch['d']
      if bytes > 0 and bytes + #payload > most then break end
      bytes = bytes + #payload
      local found = {id, {'s', short(batch['s']), 'f', short(batch['f']), 'e', short(batch['e'])}}
      if #payload > longest then
        found[3] = #payload
      else
        found[2][7], found[2][8] = 'd', payload
      end
      redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
      answer[#answer + 1] = found
    else
      answer[#answer + 1] = {id, false}
    end
  end
  answer[1] = answer[1] + 1
end
return answer
