-- Begins a new life of a bucket on a replica whose former life is not trusted: over the fence of an
-- old dump, over a damaged one, over records that have none. The one script that does not believe the
-- fence that stands, so what it makes counts in nothing: only JOINING, and only of a higher
-- incarnation. The records stay: they carry versions, and are compared with the owners'.
--
-- KEYS  data, log, history
-- ARGV  fence  the new one, of role JOINING
--       entry  the bucket's map entry, kept beside it
--
-- Reply, an integer: 1 it stands, or stood already (in this incarnation and epoch, also as an owner).
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed
--   BAD_REQUEST        an argument is malformed, or the role another      detail: which
--   NO_FENCE           nothing is here: fence_create makes the first one
--   WRONG_INCARNATION  the one there is of this or of a later life; with its map entry
--   STALE_EPOCH        the one there has a newer epoch; with its map entry

if #KEYS ~= 3 or #ARGV ~= 2 then return refuse('BAD_REQUEST', false, 'arity') end
local epoch, role, incarnation = read_fence(ARGV[1])
if not epoch or role ~= JOINING then return refuse('BAD_REQUEST', false, 'fence') end

local fence = redis.call('HGET', KEYS[1], 'f')
local old_epoch, old_role, old_incarnation
if fence then
  old_epoch, old_role, old_incarnation = read_fence(fence)
elseif redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) == 0 then
  return refuse('NO_FENCE', false, '')
end
if old_epoch then
  local lives_on = old_role == OWNER or old_role == JOINING
  if old_incarnation == incarnation and old_epoch == epoch and lives_on then return 1 end
  if not above(incarnation, old_incarnation) then
    return refuse('WRONG_INCARNATION', fence, '', true)
  end
  if above(old_epoch, epoch) then return refuse('STALE_EPOCH', fence, '', true) end
end

redis.call('HSET', KEYS[1], 'f', ARGV[1], 'm', ARGV[2])
return 1
