-- Gives a server the identity of its next life, in place of the one that the caller has seen.
--
-- KEYS  identity
-- ARGV  seen  what the caller has seen there; empty: nothing
--       new   JSON of {cluster, node, incarnation}
--
-- Reply, a string: the identity that stands: the new one, unless another one was there.

local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then return stored end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
