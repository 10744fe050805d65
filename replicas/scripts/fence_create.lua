-- Makes a bucket's first fence on this replica. Refused when one exists, whatever it says.
--
-- KEYS  data, log, history
-- ARGV  fence  its 59 or 75 bytes, of any role but RELEASED
--       entry  the bucket's map entry, kept beside it
--
-- Reply, an integer: 1 created.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed
--   BAD_REQUEST  an argument is malformed                           detail: which
--   EXISTS       there is one; with it and its map entry
--   LEFTOVERS    records, a log or a history without a fence: of an earlier life, so nothing that
--                may come back to life under a new one              detail: which key

if #KEYS ~= 3 or #ARGV ~= 2 then return refuse('BAD_REQUEST', false, 'arity') end
local epoch, role = read_fence(ARGV[1])
if not epoch or role == RELEASED then return refuse('BAD_REQUEST', false, 'fence') end

local fence = redis.call('HGET', KEYS[1], 'f')
if fence then return refuse('EXISTS', fence, '', true) end
for i = 1, 3 do
  if redis.call('EXISTS', KEYS[i]) == 1 then return refuse('LEFTOVERS', false, KEYS[i]) end
end

redis.call('HSET', KEYS[1], 'f', ARGV[1], 'm', ARGV[2])
return 1
