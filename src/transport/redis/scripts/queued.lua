-- A page of the entries that the group has not acknowledged, without their payloads.
-- KEYS: 1 stream
-- ARGV: 1 group, 2 where to begin ('' = at the oldest unacknowledged), 3 how many entries to look at
-- Returns {where to go on, or '', bytes that were looked at; then for each entry: source, first row, end row}.

local group = group_of(KEYS[1], ARGV[1])
local from = ARGV[2]
if from == '' then from = '-' end
if ARGV[2] == '' and group then
  from = needed_by(KEYS[1], group)
  if not from then return {'', 0} end
end

local ahead = group and is_ahead(KEYS[1], group)
local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3])
local page, bytes = {'', 0}, 0
for _, entry in ipairs(entries) do
  local id = entry[1]
  local field = {}
  for i = 1, #entry[2], 2 do field[entry[2][i]] = entry[2][i + 1] end
  bytes = bytes + #(field['d'] or '')
  local open = not group or ahead or less(group['last-delivered-id'], id)
  if not open then open = #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) > 0 end
  if open then
    for _, name in ipairs({'s', 'f', 'e'}) do
      -- What is longer than a source is none, nor a number.
      local value = field[name] or ''
      page[#page + 1] = #value <= 32 and value or ''
    end
  end
end
if #entries > 0 then page[1] = following(entries[#entries][1]) or '' end
page[2] = bytes
return page
