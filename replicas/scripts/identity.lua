-- Gives this server its identity, once; the caller compares what stands with what it offered.
--
-- KEYS  identity
-- ARGV  JSON of {cluster, node, incarnation}
--
-- Reply, a string: the identity that stands: the one given first.

local stored = redis.call('GET', KEYS[1])
if stored then return stored end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
