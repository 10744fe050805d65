-- The first step of a change in a linearizable keyspace: promises to accept nothing below a ballot.
--
-- KEYS  data
-- ARGV  epoch, incarnation, field  as for a write: lib/request.lua
--       ballot                     16 bytes
--
-- Reply, a string: promised. The record as it now stands, whose promise is the ballot; that of a key
-- without one says that nothing was ever accepted. A repeat finds the promise given: the same reply.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, nothing was changed
--   BAD_REQUEST, NO_FENCE, STALE_EPOCH, RELEASED, WRONG_INCARNATION, WRONG_ROLE: as for a write
--   CORRUPT      checksum or form is wrong                           detail: fence, record
--   WRONG_MODE   a record of the tunable mode                        detail: stored
--   LOW_BALLOT   a higher one was promised, or may have been         detail: what it must be above
--
-- Ballots are not held against this server's TIME. They grow by one above the highest seen, so a clock
-- that is ahead makes keys run ahead of time, and harms nothing that compares ballots. Refused, they
-- would shut a key for as long as a clock that has been set back needs to catch up.

local problem = bad_argument(1, 4)
local ballot = ARGV[4]
if not problem and (#ballot ~= 16 or ballot == ZERO_VERSION) then problem = 'ballot' end
if problem then return refuse('BAD_REQUEST', false, problem) end

local fence, refusal, old, _, promise, floor, purged_through = look_up()
refusal = refusal or refuse_ballot(fence, ballot, promise, floor)
if refusal then return refusal end
if ballot == promise then return old end

local promised = promising(old, ballot, purged_through)
redis.call('HSET', KEYS[1], ARGV[3], promised)
return promised
