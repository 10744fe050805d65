-- Lists keys and versions of a part of a bucket's records. Changes nothing.
--
-- KEYS  data
-- ARGV  epoch, incarnation, cursor, count, leaves  as of digest
--       wanted  one character for each leaf: '1' where its records are wanted
--
-- Reply, an array {cursor, records, {field, order, field, order ...}}: the cursor of the next step, 0
-- after the last one; how many records this step saw; those of the wanted leaves. `order` is version,
-- expired rank and checksum, 25 bytes that compare as records are ordered; empty: the record fails
-- its checksum.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused, as a write would be.

local refusal = refuse_step(bad_leaves(6))
if refusal then return refusal end

local leaves, records = tonumber(ARGV[5]), 0
local found = {}
local cursor = each_record(function(field, raw)
  records = records + 1
  if string.byte(ARGV[6], leaf_of(field, leaves) + 1) ~= 49 then return end -- '1'
  local version, kind = read_record(raw)
  found[#found + 1] = field
  found[#found + 1] = version and version .. tiebreak(raw, kind) or ''
end)
return { cursor, records, found }
