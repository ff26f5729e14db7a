-- A dictionary, as far as it is one: what is longer than a dictionary can be was put there by somebody else, and would fill the memory
-- of whoever reads it.
-- KEYS: 1 dictionary
-- ARGV: 1 the greatest length in bytes
-- Returns {} where there is none, else {its length, its bytes, or only the first of them}.

local dictionary = redis.call('GET', KEYS[1])
if not dictionary then return {} end
if #dictionary > tonumber(ARGV[1]) then return {#dictionary, string.sub(dictionary, 1, 64)} end
return {#dictionary, dictionary}
