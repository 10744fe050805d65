-- What writes of both modes have in common: their first arguments, the judgement of the fence, the
-- change log. Uses record.lua and fence.lua.
--
-- ARGV  epoch        8 bytes, big-endian: the writer's epoch of the bucket
--       incarnation  8 bytes, big-endian: of this replica, in the writer's map
--       field        'k' and the user key, 2 to 1,025 bytes
--       what is written
--       limits       max_skew_ms (4 bytes), bytes that the log may take (4 bytes), big-endian

local FIELD_PREFIX = 107 -- 'k'
local MAX_FIELD_BYTES = 1025
local LOG_ENTRY_BYTES = 64 -- with a key of 30 bytes, measured

local function bad_argument(keys, arguments)
  if #KEYS ~= keys or #ARGV ~= arguments then return 'arity' end
  if #ARGV[1] ~= 8 then return 'epoch' end
  if #ARGV[2] ~= 8 then return 'incarnation' end
  local field = ARGV[3]
  if #field < 2 or #field > MAX_FIELD_BYTES or string.byte(field) ~= FIELD_PREFIX then
    return 'field'
  end
  if arguments >= 5 and #ARGV[5] ~= 8 then return 'limits' end
end

local function server_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- What the replica's own fence says against a write.
local function refuse_by_fence(fence, epoch, role, incarnation)
  if not fence then return refuse('NO_FENCE', false, '') end
  if not epoch then return refuse('CORRUPT', fence, 'fence') end
  if above(epoch, ARGV[1]) then return refuse('STALE_EPOCH', fence, '', true) end
  if role == RELEASED then return refuse('RELEASED', fence, '', true) end
  if incarnation ~= ARGV[2] then return refuse('WRONG_INCARNATION', fence, '', true) end
  if role == READ_REPLICA then return refuse('WRONG_ROLE', fence, '', true) end
end

-- Keeps the log within `log_bytes`. Entries are counted on every write, but differ in size: where the
-- version's time allows (about one write in 64) they are weighed too.
local function append_to_log(log_bytes, version, field)
  local most = math.max(1, math.floor(log_bytes / LOG_ENTRY_BYTES))
  local entry = version .. string.sub(field, 2)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', string.format('%.0f', most), '*', 'e', entry)
  if string.byte(version, 6) % 64 ~= 0 then return end
  -- Some servers keep MEMORY from their users; no write may end halfway because of that.
  local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[2])
  if type(bytes) == 'number' and bytes > log_bytes then
    local keep = math.floor(redis.call('XLEN', KEYS[2]) * log_bytes / bytes)
    redis.call('XTRIM', KEYS[2], 'MAXLEN', '~', string.format('%.0f', keep))
  end
end
