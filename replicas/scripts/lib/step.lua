-- One step over a bucket's records: digest, entries, purge. Uses record.lua, fence.lua, request.lua.

local MAX_LEAVES = 65536

-- A whole number within 0 and `most`; nil for anything else.
local function whole(text, most)
  if not string.find(text, '^%d+$') or #text > 15 then return nil end
  local number = tonumber(text)
  return number <= most and number or nil
end

-- What is wrong with the arguments that all have; nil: nothing.
local function bad_step(arguments)
  if #KEYS ~= 1 or #ARGV ~= arguments then return 'arity' end
  if #ARGV[1] ~= 8 then return 'epoch' end
  if #ARGV[2] ~= 8 then return 'incarnation' end
  if not string.find(ARGV[3], '^%d+$') then return 'cursor' end
  if not whole(ARGV[4], 1000000) or whole(ARGV[4], 1000000) < 1 then return 'count' end
end

-- What is wrong with those of a step that looks at leaves; nil: nothing.
local function bad_leaves(arguments)
  local problem = bad_step(arguments)
  if problem then return problem end
  local leaves = whole(ARGV[5], MAX_LEAVES)
  if not leaves or leaves < 1 then return 'leaves' end
  if arguments == 6 and #ARGV[6] ~= leaves then return 'wanted' end
end

-- The refusal of a malformed step (`problem`), or of one from another epoch or life; nil: go on. With
-- it fence, role and purged-through.
local function refuse_step(problem)
  if problem then return refuse('BAD_REQUEST', false, problem) end
  local fence = redis.call('HGET', KEYS[1], 'f')
  local epoch, role, incarnation, purged_through
  if fence then epoch, role, incarnation, purged_through = read_fence(fence) end
  return refuse_by_fence(fence, epoch, role, incarnation), fence, role, purged_through
end

-- The leaf, from 0, that a field's record belongs to: by its key alone, so that two versions of one
-- key meet in one leaf.
local function leaf_of(field, leaves)
  return tonumber(string.sub(redis.sha1hex(field), 1, 4), 16) % leaves
end

-- Calls `take(field, raw)` for the records of this step; the cursor of the next one.
local function each_record(take)
  local scanned = redis.call('HSCAN', KEYS[1], ARGV[3], 'COUNT', ARGV[4])
  local flat = scanned[2]
  for i = 1, #flat, 2 do
    if string.byte(flat[i]) == 107 then take(flat[i], flat[i + 1]) end -- 'k': no reserved field
  end
  return scanned[1]
end
