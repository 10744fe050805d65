-- The second step of a change in a linearizable keyspace: accepts what was chosen for a ballot, unless
-- a higher one was promised.
--
-- KEYS  data, log
-- ARGV  epoch, incarnation, field  as for a write: lib/request.lua
--       record                     of the linearizable mode; ballot, promise and version are one
--       limits                     as for a write; the skew is not looked at: see prepare.lua
--
-- Reply, an integer: 1 accepted, or it was already.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed
--   BAD_REQUEST, NO_FENCE, STALE_EPOCH, RELEASED, WRONG_INCARNATION, WRONG_ROLE: as for a write
--   CORRUPT      checksum or form is wrong                           detail: fence, record
--   WRONG_MODE   a record of the tunable mode                        detail: offered, stored
--   LOW_BALLOT   a higher one was promised, or may have been         detail: what it must be above
--   SKEWED       the tombstone of an expiry that this server's TIME has not reached: a value that
--                others can read                                     detail: TIME in ms, an integer

local problem = bad_argument(2, 5)
if problem then return refuse('BAD_REQUEST', false, problem) end
local record = ARGV[4]
local ballot, kind, offered_promise, expires_at_ms = read_acceptor(record)
if not ballot and kind == 'WRONG_MODE' then return refuse('WRONG_MODE', false, 'offered') end
if not ballot or ballot == ZERO_VERSION or offered_promise ~= ballot then
  return refuse('BAD_REQUEST', false, 'record')
end

local fence, refusal, old, accepted, promise, floor = look_up()
if refusal then return refusal end
-- No two values ever carry one ballot.
if accepted == ballot then return 1 end
refusal = refuse_ballot(fence, ballot, promise, floor)
if refusal then return refusal end
local now_ms = server_ms()
if kind == 7 and now_ms < expires_at_ms then return refuse('SKEWED', fence, now_ms) end

-- The log first: a log key of a wrong type fails here, before anything is written.
local _, log_bytes = struct.unpack('>I4I4', ARGV[5])
append_to_log(log_bytes, ballot, ARGV[3])
redis.call('HSET', KEYS[1], ARGV[3], record)
return 1
