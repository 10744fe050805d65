-- Lists a part of a bucket's keys. Changes nothing.
--
-- KEYS  data
-- ARGV  epoch        8 bytes, big-endian: the reader's epoch of the bucket
--       incarnation  8 bytes, big-endian: of this replica, in the reader's map
--       cursor       decimal; 0 to begin, then as replied
--       count        decimal, 1 to 10,000: about so many fields in this step
--       prefix       only keys that begin so; may be empty
--
-- Reply, an array {cursor, {key, key ...}}: the cursor of the next step, 0 after the last one; keys of
-- values, of tombstones and of damaged records alike. A key may be listed twice. One that is there
-- all the time from the first step to the last is listed.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused; also WRONG_ROLE, where the
-- replica is no owner: then it may lack keys.

local function refuse_list()
  local refusal = refuse_walk(5)
  if refusal then return refusal end
  local count = string.find(ARGV[4], '^%d%d?%d?%d?%d?$') and tonumber(ARGV[4]) or 0
  if not string.find(ARGV[3], '^%d+$') or #ARGV[3] > 20 then
    return refuse('BAD_REQUEST', false, 'cursor')
  end
  if count < 1 or count > 10000 then return refuse('BAD_REQUEST', false, 'count') end
end

-- Older servers can not leave the values out: there a step is a tenth, for values may be large.
local function fields_of_step()
  local count = tonumber(ARGV[4])
  local scanned = redis.pcall('HSCAN', KEYS[1], ARGV[3], 'COUNT', count, 'NOVALUES')
  if not scanned.err then return scanned[1], scanned[2], 1 end
  local few = math.max(1, math.floor(count / 10))
  scanned = redis.call('HSCAN', KEYS[1], ARGV[3], 'COUNT', few)
  return scanned[1], scanned[2], 2
end

local refusal = refuse_list()
if refusal then return refusal end

local wanted = 'k' .. ARGV[5]
local cursor, fields, step = fields_of_step()
local keys = {}
for i = 1, #fields, step do
  if string.sub(fields[i], 1, #wanted) == wanted then keys[#keys + 1] = string.sub(fields[i], 2) end
end
return { cursor, keys }
