-- A page of the entries that the group has not acknowledged, without their payloads.
-- KEYS: 1 stream
-- ARGV: 1 group, 2 where to begin ('' = at the oldest unacknowledged), 3 how many entries to look at
-- Returns {where to go on, or '', bytes that were looked at; then for each entry: source, first row, end row}.

local group = group_of(KEYS[1], ARGV[1])
local from = ARGV[2]
if from == '' then from = group and needed_by(KEYS[1], group) or '-' end

local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3])
local page, bytes = {'', 0}, 0
for _, entry in ipairs(entries) do
  local id = entry[1]
  local field = {}
  for i = 1, #entry[2], 2 do field[entry[2][i]] = entry[2][i + 1] end
  bytes = bytes + #(field['d'] or '')
  local open = not group or less(group['last-delivered-id'], id)
  if not open then open = #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) > 0 end
  if open then
    page[#page + 1] = field['s'] or ''
    page[#page + 1] = field['f'] or ''
    page[#page + 1] = field['e'] or ''
  end
end
if #entries > 0 then page[1] = following(entries[#entries][1]) end
page[2] = bytes
return page
