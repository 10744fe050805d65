-- Counts a bucket's keys: values, and tombstones that were not purged. Changes nothing.
--
-- KEYS  data
-- ARGV  epoch, incarnation  as of list
--
-- Reply, an integer. Reply, an array {code, fence or nil, map entry or nil, detail}: refused, as list.

local refusal = refuse_walk(2)
if refusal then return refusal end
local count = redis.call('HLEN', KEYS[1])
for _, reserved in ipairs(redis.call('HMGET', KEYS[1], 'f', 'm')) do
  if reserved then count = count - 1 end
end
return count
