-- Writes one record, or refuses it. Uses record.lua, fence.lua and request.lua. `healing` lets it replace
-- a record that fails its checksum. A copy (`seen` is given) may write what is closed or purged.
--
-- KEYS  data, log
-- ARGV  epoch        8 bytes, big-endian: the writer's epoch of the bucket
--       incarnation  8 bytes, big-endian: of this replica, in the writer's map
--       field        'k' and the user key, 2 to 1,025 bytes
--       record       its bytes, checksum included: a value or a tombstone
--       limits       max_skew_ms (4 bytes), bytes that the log may take (4 bytes), big-endian
--       seen         of a copy alone: purged-through here, as read before what is copied was
--
-- Reply, an integer: acknowledged
--   1  applied, and nothing live was there before; or this very record was there already
--   2  applied, over a live value
--   3  superseded: a newer valid record stands, which is durable in the order
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed
--   BAD_REQUEST        an argument is malformed                  detail: which
--   NO_FENCE           this replica does not hold the bucket
--   CORRUPT            checksum or form is wrong                 detail: fence, record
--   STALE_EPOCH        its fence is newer than the writer's map  with the map entry
--   RELEASED           it has handed the bucket over             with the map entry
--   WRONG_INCARNATION  it lives another life than the writer's map says; with the map entry
--   WRONG_ROLE         it only follows the bucket                with the map entry
--   WRONG_MODE         a record of the linearizable mode         detail: offered, stored
--   SKEWED             too far ahead of this server's TIME       detail: TIME in ms, an integer
--   CLOSED             new versions up to closed-through are refused
--   PURGED             at or below purged-through, where all owners were made equal: what lacks here is
--                      gone everywhere, or was deleted; to a copy: purged-through has risen meanwhile
--
-- A script is not rolled back, so everything is judged before anything is written.

-- What speaks against the request as such.
local function refuse_request(version, seen)
  local problem = bad_argument(2, seen and 6 or 5)
  if not problem and seen and #seen ~= 16 then problem = 'seen' end
  if not problem and (not version or version == ZERO_VERSION) then problem = 'record' end
  if problem then return refuse('BAD_REQUEST', false, problem) end
end

-- What the replica's clock says against it. The tombstone of an expiry that is still to come would
-- delete a value that others can read.
local function refuse_by_clock(fence, version, kind, expires_at_ms, latest_ms, now_ms)
  if version_ms(version) > latest_ms or (kind == 7 and expires_at_ms > latest_ms) then
    return refuse('SKEWED', fence, now_ms)
  end
end

-- 1 or 2 when the offered record is to replace the stored one, 3 when it is superseded.
local function judge(record, version, kind, old, old_version, old_kind, old_expires_at_ms, now_ms)
  local newer
  if version == old_version then
    newer = above(tiebreak(record, kind), tiebreak(old, old_kind))
  else
    newer = above(version, old_version)
  end
  if not newer then return 3 end
  if old_kind == 0 or (old_kind == 2 and now_ms < old_expires_at_ms) then return 2 end
  return 1
end

-- 1, 2 or 3 for a record where `old` stands (false: nothing), or a refusal. `bounds`: the fence's
-- `purged` and `closed`; `healing`; `seen`.
local function judge_stored(fence, bounds, record, version, kind, old, now_ms)
  local old_version, old_kind, old_expires_at_ms, old_linearizable
  if old then old_version, old_kind, old_expires_at_ms, old_linearizable = read_record(old) end
  if old and not old_version then
    if bounds.healing then return 1 end
    return refuse('CORRUPT', fence, 'record')
  end
  if old_linearizable then return refuse('WRONG_MODE', fence, 'stored') end
  local seen, reply = bounds.seen, 1
  if not seen and not above(version, bounds.closed) then return refuse('CLOSED', fence, '') end
  if old then
    reply = judge(record, version, kind, old, old_version, old_kind, old_expires_at_ms, now_ms)
  end
  if reply ~= 3 and seen ~= bounds.purged and not above(version, bounds.purged) then
    return refuse('PURGED', fence, '')
  end
  return reply
end

local function apply(healing, seen)
  local record = ARGV[4] or ''
  local version, kind, expires_at_ms, linearizable = read_record(record)
  local refusal = refuse_request(version, seen)
  if refusal then return refusal end

  local stored = redis.call('HMGET', KEYS[1], 'f', ARGV[3])
  local fence, old = stored[1], stored[2]
  local epoch, role, incarnation, purged_through, closed_through
  if fence then epoch, role, incarnation, purged_through, closed_through = read_fence(fence) end
  refusal = refuse_by_fence(fence, epoch, role, incarnation)
  if refusal then return refusal end
  if linearizable then return refuse('WRONG_MODE', fence, 'offered') end
  if old == record then return 1 end

  local max_skew_ms, log_bytes = struct.unpack('>I4I4', ARGV[5])
  local now_ms = server_ms()
  local latest_ms = now_ms + max_skew_ms
  refusal = refuse_by_clock(fence, version, kind, expires_at_ms, latest_ms, now_ms)
  if refusal then return refusal end

  local bounds = { purged = purged_through, closed = closed_through, healing = healing, seen = seen }
  local reply = judge_stored(fence, bounds, record, version, kind, old, now_ms)
  if reply ~= 1 and reply ~= 2 then return reply end

  -- The log first: a log key of a wrong type fails here, before anything is written.
  append_to_log(log_bytes, version, ARGV[3])
  redis.call('HSET', KEYS[1], ARGV[3], record)
  return reply
end
