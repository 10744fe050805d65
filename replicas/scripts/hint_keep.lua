-- Keeps a hint for another owner of the bucket: a sidecar that stops hands over what it could not
-- replay. Uses record.lua, fence.lua, request.lua.
--
-- KEYS  data, hints
-- ARGV  epoch        8 bytes, big-endian: the sidecar's epoch of the bucket
--       incarnation  8 bytes, big-endian: of this replica, in the sidecar's map
--       entry        the hint, checksum first
--       most         bytes that all entries of this server may take, in digits
--
-- Reply, an integer: 1 kept, 0 not kept: the bound is reached.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused as a write would be.
--
-- Every entry carries the bytes of all that were ever added, so that first and last tell the size.

if #KEYS ~= 2 or #ARGV ~= 4 then return refuse('BAD_REQUEST', false, 'arity') end
if #ARGV[1] ~= 8 then return refuse('BAD_REQUEST', false, 'epoch') end
if #ARGV[2] ~= 8 then return refuse('BAD_REQUEST', false, 'incarnation') end
local entry = ARGV[3]
if #entry < 9 or not sealed(string.sub(entry, 1, 8), string.sub(entry, 9)) then
  return refuse('BAD_REQUEST', false, 'entry')
end
if not string.find(ARGV[4], '^%d+$') then return refuse('BAD_REQUEST', false, 'most') end

local fence = redis.call('HGET', KEYS[1], 'f')
local epoch, role, incarnation
if fence then epoch, role, incarnation = read_fence(fence) end
local refusal = refuse_by_fence(fence, epoch, role, incarnation)
if refusal then return refusal end

local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local before, total = 0, 0
if first then
  before = tonumber(first[2][4]) - #first[2][2]
  total = tonumber(last[2][4])
end
if total - before + #entry > tonumber(ARGV[4]) then return 0 end
redis.call('XADD', KEYS[2], '*', 'e', entry, 't', string.format('%.0f', total + #entry))
return 1
