-- What is true of every fence; the same as replicas/fence.py. Uses record.lua.
-- format(1) | epoch(8) | stage(1) | role(1) | incarnation(8) | purged_through(16) |
-- closed_through(16) | ballot_floor(16), in format 2 | checksum(8)

local ZERO_NUMBER = string.rep('\0', 8)
local OWNER, JOINING, READ_REPLICA, RELEASED = 1, 2, 3, 4

-- epoch (8 bytes), role, incarnation (8 bytes), purged_through, closed_through, ballot_floor; nil when
-- checksum or form is wrong.
local function read_fence(raw)
  local form = string.byte(raw, 1)
  if not (form == 1 and #raw == 59) and not (form == 2 and #raw == 75) then return nil end
  if not sealed(string.sub(raw, -8), string.sub(raw, 1, -9)) then return nil end
  local stage, role = string.byte(raw, 10), string.byte(raw, 11)
  if stage > 3 or role < OWNER or role > RELEASED then return nil end
  local epoch, incarnation = string.sub(raw, 2, 9), string.sub(raw, 12, 19)
  if epoch == ZERO_NUMBER or incarnation == ZERO_NUMBER then return nil end
  local floor = form == 2 and string.sub(raw, 52, 67) or ZERO_VERSION
  return epoch, role, incarnation, string.sub(raw, 20, 35), string.sub(raw, 36, 51), floor
end

-- Whether two fences say the same of epoch, stage, role and incarnation.
local function same_place(a, b)
  return string.sub(a, 2, 19) == string.sub(b, 2, 19)
end

-- The fence `new`, with the higher of what bounds it and `old`: none of them ever falls.
local function merge_fences(new, old)
  local _, _, _, purged, closed, floor = read_fence(new)
  local _, _, _, old_purged, old_closed, old_floor = read_fence(old)
  if above(old_purged, purged) then purged = old_purged end
  if above(old_closed, closed) then closed = old_closed end
  if above(old_floor, floor) then floor = old_floor end
  local body = string.sub(new, 2, 19) .. purged .. closed
  if floor == ZERO_VERSION then body = '\1' .. body else body = '\2' .. body .. floor end
  return body .. checksum_of(body)
end

-- The fence `raw` with another purged-through.
local function with_purged(raw, purged)
  local body = string.sub(raw, 1, 19) .. purged .. string.sub(raw, 36, -9)
  return body .. checksum_of(body)
end

-- An atomic refusal: nothing was changed. `fence` is the replica's own, false when it has none. A
-- caller whose map may be old gets the bucket's entry with it.
local function refuse(code, fence, detail, with_entry)
  local entry = with_entry and redis.call('HGET', KEYS[1], 'm') or false
  return { code, fence, entry, detail }
end
