-- Turns a bucket's fence into a gravestone, which names the successors. The records stay: what this
-- replica alone holds may still have to be merged into the others.
--
-- KEYS  data
-- ARGV  fence  the new one, 59 or 75 bytes, of role RELEASED
--       entry  the successors' map entry, kept beside it
--
-- Purged-through, closed-through and ballot floor never fall: the higher of old and new is kept.
--
-- Reply, an integer: 1 released, or so already.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed
--   BAD_REQUEST        an argument is malformed                              detail: which
--   NO_FENCE           there is none
--   CORRUPT            the one there fails its checksum
--   WRONG_INCARNATION  the one there is of another life; with its map entry
--   STALE_EPOCH        the one there is newer; with its map entry

if #KEYS ~= 1 or #ARGV ~= 2 then return refuse('BAD_REQUEST', false, 'arity') end
local epoch, role, incarnation = read_fence(ARGV[1])
if not epoch or role ~= RELEASED then return refuse('BAD_REQUEST', false, 'fence') end

local fence = redis.call('HGET', KEYS[1], 'f')
if not fence then return refuse('NO_FENCE', false, '') end
local old_epoch, _, old_incarnation = read_fence(fence)
if not old_epoch then return refuse('CORRUPT', fence, 'fence') end
if old_incarnation ~= incarnation then return refuse('WRONG_INCARNATION', fence, '', true) end
if above(old_epoch, epoch) then return refuse('STALE_EPOCH', fence, '', true) end

redis.call('HSET', KEYS[1], 'f', merge_fences(ARGV[1], fence), 'm', ARGV[2])
return 1
