-- One step of taking a bucket's old tombstones away. To be safe it needs all owners, in this order:
-- `close` on each, so that nothing at or below the bound changes any more but through copies; the
-- owners made equal; `drop` on each. A tombstone that one owner lacks covers a value there.
--
-- KEYS  data
-- ARGV  epoch, incarnation, cursor, count  as of digest
--       bound     a version whose last byte is 0; what is above it stays
--       grace_ms  decimal: what is not older than this, by this server's TIME, stays
--       what      look   count, change nothing
--                 close  raise purged-through to the bound; the records are not looked at
--                 drop   as look, and remove what is counted as purged
--
-- Purged are tombstones, and in the tunable mode values whose expiry nobody has met, once the grace has
-- passed since their version and since their expiry. In the linearizable mode not where a promise is
-- above what is accepted, nor while the record remembers an operation id from after the bound.
-- Corrupt records stay.
--
-- `drop` raises purged-through by one above the bound: copy.lua says why. It never falls.
--
-- Reply, an array {cursor, records, tombstones, purged, bytes}: the cursor of the next step, 0 after
-- the last one; how many records this step saw, tombstones among them, and purged; bytes of those.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed: as a
-- write would be, and
--   WRONG_ROLE  also by a replica that is joining: it lacks records  with the map entry
--   NOT_CLOSED  `drop` of a bound that was not closed before
--   SKEWED      the bound is not older than the grace                detail: TIME in ms, an integer

local problem = bad_step(7)
local bound, grace_ms, what = ARGV[5], whole(ARGV[6] or '', MAX_TIME_MS), ARGV[7]
if not problem and (#bound ~= 16 or string.byte(bound, 16) ~= 0) then problem = 'bound' end
if not problem and not grace_ms then problem = 'grace_ms' end
if not problem and what ~= 'look' and what ~= 'close' and what ~= 'drop' then problem = 'what' end
local refusal, fence, role, purged_through = refuse_step(problem)
if refusal then return refusal end
if role == JOINING then return refuse('WRONG_ROLE', fence, '', true) end
local now_ms = server_ms()
local latest_ms = now_ms - grace_ms
if version_ms(bound) > latest_ms then return refuse('SKEWED', fence, now_ms) end
if what == 'drop' and above(bound, purged_through) then return refuse('NOT_CLOSED', fence, '') end

-- Whether an acceptor's record says no more than its absence will.
local function says_nothing(raw)
  local accepted, _, promise = read_acceptor(raw)
  if not accepted or promise ~= accepted then return false end
  for i = 0, string.byte(raw, ACCEPTOR_BYTES) - 1 do
    local at = ACCEPTOR_BYTES + 1 + i * 32
    if version_ms(string.sub(raw, at, at + 5)) > version_ms(bound) then return false end
  end
  return true
end

local function purgeable(raw)
  local version, kind, expires_at_ms, linearizable = read_record(raw)
  if not version or above(version, bound) then return false end
  if linearizable then
    local _, _, _, expired_ms = read_acceptor(raw)
    return kind ~= 2 and (expired_ms or 0) <= latest_ms and says_nothing(raw)
  end
  return expires_at_ms <= latest_ms
end

local records, tombstones, bytes, found = 0, 0, 0, {}
local cursor = what == 'close' and '0' or each_record(function(field, raw)
  records = records + 1
  local flags = string.byte(raw, 25)
  -- Values are nearly all that there is: their checksums are left alone.
  if not flags or flags % 8 == 0 then return end
  if flags % 2 == 1 then tombstones = tombstones + 1 end
  if purgeable(raw) then
    found[#found + 1] = field
    bytes = bytes + #field + #raw
  end
end)

-- The fence first: it is the only step that can fail, for want of memory.
local raised = what == 'drop' and string.sub(bound, 1, 15) .. '\1' or bound
if what ~= 'look' and above(raised, purged_through) then
  redis.call('HSET', KEYS[1], 'f', with_purged(fence, raised))
end
if what == 'drop' then
  for _, field in ipairs(found) do redis.call('HDEL', KEYS[1], field) end
end
return { cursor, records, tombstones, #found, bytes }
