-- Writes the records of several keys together, each where nothing newer stands, or none of them.
--
-- KEYS  data, log
-- ARGV  epoch, incarnation, field (of the first key), group, limits  as of a write, lib/apply.lua
--       group  checksum (8 bytes) | version (16) | 16 | for each of 1 to 256 records: length of its
--              key (2) | key | length of its record (4) | record; the same as replicas/group.py
--
-- Reply, an integer: acknowledged. Of a write's replies for the records the highest: 3 when something
-- newer stands on one of the keys at least.
-- Reply, an array {code, fence or nil, map entry or nil, detail}: refused as a write, nothing was
-- changed.

local GROUP = 16
local MAX_ITEMS = 256
local MAX_KEY_BYTES = 1024

-- What stands behind its length at `at`, and where the rest begins; nil: it is cut off.
local function measured(raw, form, size, at)
  if at + size - 1 > #raw then return nil end
  local length = struct.unpack(form, raw, at)
  local stop = at + size + length
  if stop > #raw + 1 then return nil end
  return string.sub(raw, at + size, stop - 1), stop
end

-- version, fields, records, kinds; nil when a checksum or the form is wrong.
local function read_group(raw)
  if #raw < 25 or string.byte(raw, 25) ~= GROUP then return nil end
  if not sealed(raw, string.sub(raw, 9)) then return nil end
  local version, at = string.sub(raw, 9, 24), 26
  local fields, records, kinds, seen = {}, {}, {}, {}
  while at <= #raw do
    local key, record
    key, at = measured(raw, '>I2', 2, at)
    if not key or #key < 1 or #key > MAX_KEY_BYTES then return nil end
    if seen[key] or #fields == MAX_ITEMS then return nil end
    record, at = measured(raw, '>I4', 4, at)
    if not record then return nil end
    local its_version, kind, _, linearizable = read_record(record)
    if its_version ~= version or linearizable or kind == 7 then return nil end
    seen[key] = true
    fields[#fields + 1], records[#records + 1], kinds[#kinds + 1] = 'k' .. key, record, kind
  end
  if #fields == 0 then return nil end
  return version, fields, records, kinds
end

-- The fields and records that are to be stored, and the reply; or a refusal instead of both.
local function judge_group(fence, bounds, version, fields, records, kinds, stored)
  local now_ms, reply, logged, changes = server_ms(), 1, {}, {}
  for i, record in ipairs(records) do
    local old = stored[i + 1]
    if old ~= record then
      if version_ms(version) > now_ms + bounds.max_skew_ms then
        return nil, nil, refuse('SKEWED', fence, now_ms)
      end
      local verdict = judge_stored(fence, bounds, record, version, kinds[i], old, now_ms)
      if type(verdict) == 'table' then return nil, nil, verdict end
      if verdict ~= 3 then
        logged[#logged + 1] = fields[i]
        changes[#changes + 1], changes[#changes + 2] = fields[i], record
      end
      reply = math.max(reply, verdict)
    end
  end
  return logged, changes, reply
end

local version, fields, records, kinds = read_group(ARGV[4] or '')
local refusal = refuse_request(version)
if refusal then return refusal end

local stored = redis.call('HMGET', KEYS[1], 'f', unpack(fields))
local fence = stored[1]
local epoch, role, incarnation, purged_through, closed_through
if fence then epoch, role, incarnation, purged_through, closed_through = read_fence(fence) end
refusal = refuse_by_fence(fence, epoch, role, incarnation)
if refusal then return refusal end

local max_skew_ms, log_bytes = struct.unpack('>I4I4', ARGV[5])
local bounds = { max_skew_ms = max_skew_ms, purged = purged_through, closed = closed_through }
local logged, changes, reply = judge_group(fence, bounds, version, fields, records, kinds, stored)
if changes and #changes > 0 then
  -- The log first, as a write does: what can fail, fails before anything is written.
  for _, field in ipairs(logged) do append_to_log(log_bytes, version, field) end
  redis.call('HSET', KEYS[1], unpack(changes))
end
return reply
