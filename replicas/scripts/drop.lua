-- Removes from a joining replica what its former life left there and the owners do not have: a record
-- whose tombstone they have purged, or one that fails its checksum.
--
-- KEYS  data
-- ARGV  epoch        8 bytes, big-endian: the caller's epoch of the bucket
--       incarnation  8 bytes, big-endian: of this replica, in the caller's map
--       field        'k' and the user key
--
-- Reply, an integer: 1 gone, 3 kept: it is valid, and above purged-through.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed: as a
-- write would be, and WRONG_ROLE by a replica that is not joining.

if #KEYS ~= 1 or #ARGV ~= 3 then return refuse('BAD_REQUEST', false, 'arity') end
if #ARGV[1] ~= 8 then return refuse('BAD_REQUEST', false, 'epoch') end
if #ARGV[2] ~= 8 then return refuse('BAD_REQUEST', false, 'incarnation') end
if string.byte(ARGV[3]) ~= 107 then return refuse('BAD_REQUEST', false, 'field') end -- 'k'

local stored = redis.call('HMGET', KEYS[1], 'f', ARGV[3])
local fence, raw = stored[1], stored[2]
local epoch, role, incarnation, purged_through
if fence then epoch, role, incarnation, purged_through = read_fence(fence) end
local refusal = refuse_by_fence(fence, epoch, role, incarnation)
if refusal then return refusal end
if role ~= JOINING then return refuse('WRONG_ROLE', fence, '', true) end

if not raw then return 1 end
local version = read_record(raw)
if version and above(version, purged_through) then return 3 end
redis.call('HDEL', KEYS[1], ARGV[3])
return 1
