-- Digests of a part of a bucket's records. Changes nothing.
--
-- KEYS  data
-- ARGV  epoch        8 bytes, big-endian: the caller's epoch of the bucket
--       incarnation  8 bytes, big-endian: of this replica, in the caller's map
--       cursor       decimal; 0 to begin, then as replied
--       count        decimal, 1 to 1,000,000: about so many records in this step
--       leaves       decimal, 1 to 65,536
--
-- Reply, an array {cursor, records, digests}: the cursor of the next step, 0 after the last one; how
-- many records this step saw; for each leaf 8 bytes: of every record the first 8 bytes of SHA-1 over
-- field and record, all of them XORed. The steps of a pass are XORed too, so order does not matter.
-- A record that the server shows twice while it resizes its table makes leaves differ that do not:
-- they cost a second look.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, as a write would be.
--
-- 3.5 us a record of 100 bytes: 2,000 in 7 ms.

local refusal = refuse_step(bad_leaves(5))
if refusal then return refusal end

local leaves, records = tonumber(ARGV[5]), 0
local highs, lows = {}, {}
local cursor = each_record(function(field, raw)
  local leaf, hex = leaf_of(field, leaves), redis.sha1hex(field .. raw)
  records = records + 1
  highs[leaf] = bit.bxor(highs[leaf] or 0, tonumber(string.sub(hex, 1, 8), 16))
  lows[leaf] = bit.bxor(lows[leaf] or 0, tonumber(string.sub(hex, 9, 16), 16))
end)

-- bit.bxor answers with signed numbers.
local function packed(word)
  if word < 0 then word = word + 4294967296 end
  return struct.pack('>I4', word)
end

local digests = {}
for leaf = 0, leaves - 1 do
  digests[leaf + 1] = packed(highs[leaf] or 0) .. packed(lows[leaf] or 0)
end
return { cursor, records, table.concat(digests) }
