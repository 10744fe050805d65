-- What is true of every record; the same as replicas/record.py.
-- checksum(8) | version(16) | flags(1) | expires_at_ms(8), if flagged | value

local ZERO_VERSION = string.rep('\0', 16)
local MAX_TIME_MS = 281474976710655

-- Whether `checksum` (8 bytes) is that of `body`.
local function sealed(checksum, body)
  -- 0.2 us, where string.format of eight bytes takes 0.6.
  local high, low = struct.unpack('>I4I4', checksum)
  return bit.tohex(high) .. bit.tohex(low) == string.sub(redis.sha1hex(body), 1, 16)
end

-- Whether the bytes of `a` order above those of `b`; both have the same length. Never `a > b`: that
-- follows the server's locale, in which 'node-B' may be below 'node_a' here and above it there.
-- And never as one number: a double takes 2^53 and 2^53+1 for the same.
local function above(a, b)
  if a == b then return false end
  for i = 1, #a do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return false
end

-- Milliseconds in the first 6 bytes: below 2^48, exact in a double.
local function version_ms(version)
  local high, low = struct.unpack('>I4I2', version)
  return high * 65536 + low
end

-- The first 8 bytes of SHA-1 over `body`.
local function checksum_of(body)
  local checksum = string.gsub(string.sub(redis.sha1hex(body), 1, 16), '..', function(hex)
    return string.char(tonumber(hex, 16))
  end)
  return checksum
end

-- version, kind (0 value, 1 tombstone, 2 value that expires, 7 tombstone of an expiry), expires_at_ms,
-- whether linearizable; or nil when checksum or form is wrong. Of a linearizable one the rest is for
-- acceptor.lua to read.
local function read_record(raw)
  if #raw < 25 or not sealed(raw, string.sub(raw, 9)) then return nil end
  local kind, value_at, expires_at_ms = string.byte(raw, 25), 26, 0
  local linearizable = kind >= 8
  if linearizable then
    kind = kind - 8
    if kind > 2 and kind ~= 7 then return nil end
    return string.sub(raw, 9, 24), kind, 0, true
  end
  if kind == 2 or kind == 7 then
    if #raw < 33 then return nil end
    local high, low = struct.unpack('>I4I4', raw, 26)
    expires_at_ms = high * 4294967296 + low
    if expires_at_ms < 1 or expires_at_ms > MAX_TIME_MS then return nil end
    value_at = 34
  elseif kind ~= 0 and kind ~= 1 then
    return nil
  end
  if (kind == 1 or kind == 7) and #raw >= value_at then return nil end
  return string.sub(raw, 9, 24), kind, expires_at_ms, false
end

-- Breaks the tie of two records of one version: the tombstone of an expiry first, then the checksum.
local function tiebreak(raw, kind)
  return (kind == 7 and '\1' or '\0') .. string.sub(raw, 1, 8)
end
