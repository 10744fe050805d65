-- The highest ballot promised in a part of a bucket of the linearizable mode. Changes nothing.
--
-- KEYS  data
-- ARGV  epoch, incarnation, cursor, count  as of digest
--
-- Reply, an array {cursor, records, promise}: the cursor of the next step, 0 after the last one; how
-- many records this step saw; 16 bytes, zeros where nothing was promised. A record that fails its
-- checksum says nothing.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, as a write would be.

local refusal = refuse_step(bad_step(4))
if refusal then return refusal end

local records, highest = 0, ZERO_VERSION
local cursor = each_record(function(_, raw)
  records = records + 1
  local accepted, _, promise = read_acceptor(raw)
  if accepted and above(promise, highest) then highest = promise end
end)
return { cursor, records, highest }
