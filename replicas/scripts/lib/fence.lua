-- What is true of every fence; the same as replicas/fence.py. Uses record.lua.
-- format(1) | epoch(8) | stage(1) | role(1) | incarnation(8) | purged_through(16) |
-- closed_through(16) | checksum(8)

local ZERO_NUMBER = string.rep('\0', 8)
local OWNER, JOINING, READ_REPLICA, RELEASED = 1, 2, 3, 4

-- epoch (8 bytes), role, incarnation (8 bytes), purged_through, closed_through; nil when checksum or
-- form is wrong.
local function read_fence(raw)
  if #raw ~= 59 or not sealed(string.sub(raw, 52), string.sub(raw, 1, 51)) then return nil end
  local form, stage, role = string.byte(raw, 1), string.byte(raw, 10), string.byte(raw, 11)
  if form ~= 1 or stage > 3 or role < OWNER or role > RELEASED then return nil end
  local epoch, incarnation = string.sub(raw, 2, 9), string.sub(raw, 12, 19)
  if epoch == ZERO_NUMBER or incarnation == ZERO_NUMBER then return nil end
  return epoch, role, incarnation, string.sub(raw, 20, 35), string.sub(raw, 36, 51)
end

-- The fence whose first 51 bytes are `body`.
local function seal_fence(body)
  local checksum = string.gsub(string.sub(redis.sha1hex(body), 1, 16), '..', function(hex)
    return string.char(tonumber(hex, 16))
  end)
  return body .. checksum
end

-- An atomic refusal: nothing was changed. `fence` is the replica's own, false when it has none. A
-- caller whose map may be old gets the bucket's entry with it.
local function refuse(code, fence, detail, with_entry)
  local entry = with_entry and redis.call('HGET', KEYS[1], 'm') or false
  return { code, fence, entry, detail }
end
