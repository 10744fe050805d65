-- As accept, and the only script that replaces an acceptor's record which fails its checksum: with what
-- a majority that does not count it has accepted. Touches nothing else.
--
-- What the damaged record had promised is not known. So whoever heals has raised the bucket's epoch
-- first, on a majority that does not count this replica: no promise of before can be used any more.
--
-- KEYS  data, log
-- ARGV  epoch, incarnation, field, record, limits  as of accept
--
-- Reply, an integer: 1 healed, 3 not needed: nothing is there, or what stands is valid.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed: as by
-- accept.

local problem = bad_argument(2, 5)
if problem then return refuse('BAD_REQUEST', false, problem) end
local record = ARGV[4]
local ballot, kind, offered_promise = read_acceptor(record)
if not ballot and kind == 'WRONG_MODE' then return refuse('WRONG_MODE', false, 'offered') end
if not ballot or ballot == ZERO_VERSION or offered_promise ~= ballot then
  return refuse('BAD_REQUEST', false, 'record')
end

local stored = redis.call('HMGET', KEYS[1], 'f', ARGV[3])
local fence, old = stored[1], stored[2]
local epoch, role, incarnation, purged_through, closed_through, floor
if fence then epoch, role, incarnation, purged_through, closed_through, floor = read_fence(fence) end
local refusal = refuse_by_fence(fence, epoch, role, incarnation)
if refusal then return refusal end
local accepted, why
if old then accepted, why = read_acceptor(old) end
if why == 'WRONG_MODE' then return refuse('WRONG_MODE', fence, 'stored') end
if not old or accepted then return 3 end
if above(closed_through, floor) then floor = closed_through end
if above(purged_through, floor) then floor = purged_through end
refusal = refuse_ballot(fence, ballot, ZERO_VERSION, floor)
if refusal then return refusal end

-- The log first: a log key of a wrong type fails here, before anything is written.
local _, log_bytes = struct.unpack('>I4I4', ARGV[5])
append_to_log(log_bytes, ballot, ARGV[3])
redis.call('HSET', KEYS[1], ARGV[3], record)
return 1
