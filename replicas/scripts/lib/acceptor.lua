-- A record of the linearizable mode; the same as replicas/acceptor.py. Uses the other parts.
-- checksum(8) | accepted(16) | flags(1) | expires_at_ms(8) | promise(16) | changed(16) |
-- forgotten_ms(8) | count(1) | count times id(16), decided(16) | value

local ACCEPTOR_BYTES = 74
local MOST_IDS = 16
local NEVER_ACCEPTED = ZERO_VERSION .. '\9' .. string.rep('\0', 8)

-- Unsigned, of 8 bytes; the bound keeps it exact in a double.
local function time_at(raw, position)
  local high, low = struct.unpack('>I4I4', raw, position)
  return high * 4294967296 + low
end

-- What a record of whose checksum read_record has made sure says: promise, expires_at_ms; nil when
-- its form is wrong.
local function read_state(raw, accepted, kind)
  if #raw < ACCEPTOR_BYTES then return nil end
  local expires_at_ms, count = time_at(raw, 26), string.byte(raw, 74)
  local promise, changed = string.sub(raw, 34, 49), string.sub(raw, 50, 65)
  local expires = kind == 2 or kind == 7
  if expires ~= (expires_at_ms > 0) or expires_at_ms > MAX_TIME_MS then return nil end
  if time_at(raw, 66) > MAX_TIME_MS or count > MOST_IDS then return nil end
  if above(accepted, promise) or above(changed, accepted) then return nil end
  local value_at = ACCEPTOR_BYTES + count * 32
  if #raw < value_at or (#raw > value_at and (kind == 1 or kind == 7)) then return nil end
  if accepted == ZERO_VERSION and (kind ~= 1 or count > 0) then return nil end
  return promise, expires_at_ms
end

-- accepted, kind, promise, expires_at_ms of a record offered or stored; or nil and why not: CORRUPT,
-- WRONG_MODE.
local function read_acceptor(raw)
  local accepted, kind, _, linearizable = read_record(raw)
  if not accepted then return nil, 'CORRUPT' end
  if not linearizable then return nil, 'WRONG_MODE' end
  local promise, expires_at_ms = read_state(raw, accepted, kind)
  if not promise then return nil, 'CORRUPT' end
  return accepted, kind, promise, expires_at_ms
end

-- `raw` with another promise; false: the first promise of a key that has no record. It may have had
-- one: the operation ids in it are forgotten up to the time of purged-through.
local function promising(raw, promise, purged_through)
  local before = NEVER_ACCEPTED
  local after = ZERO_VERSION .. '\0\0' .. string.sub(purged_through, 1, 6) .. '\0'
  if raw then before, after = string.sub(raw, 9, 33), string.sub(raw, 50) end
  local body = before .. promise .. after
  return checksum_of(body) .. body
end

-- What the key's replica has of it: fence, and if it refuses: the refusal. Otherwise fence, nil, the
-- stored record (or false), accepted, promise, what a ballot must be above whatever was promised, and
-- purged-through.
local function look_up()
  local stored = redis.call('HMGET', KEYS[1], 'f', ARGV[3])
  local fence, old = stored[1], stored[2]
  local epoch, role, incarnation, purged_through, closed_through, floor
  if fence then epoch, role, incarnation, purged_through, closed_through, floor = read_fence(fence) end
  local refusal = refuse_by_fence(fence, epoch, role, incarnation)
  if refusal then return fence, refusal end
  local accepted, promise = ZERO_VERSION, ZERO_VERSION
  if old then
    local problem
    accepted, problem, promise = read_acceptor(old)
    if not accepted then
      return fence, refuse(problem, fence, problem == 'CORRUPT' and 'record' or 'stored')
    end
  end
  if above(closed_through, floor) then floor = closed_through end
  -- A tombstone may have been purged, and the promise with it; and what is to be purged must stay equal
  -- on all owners.
  if above(purged_through, floor) then floor = purged_through end
  return fence, nil, old, accepted, promise, floor, purged_through
end

-- The refusal of a ballot that is too low; its detail is what a ballot must be above.
local function refuse_ballot(fence, ballot, promise, floor)
  local bar = above(floor, promise) and floor or promise
  if above(promise, ballot) or not above(ballot, floor) then
    return refuse('LOW_BALLOT', fence, bar)
  end
end
