-- What list and count have in common: only an owner may say which keys there are. Uses fence.lua and
-- request.lua.

-- The refusal of a malformed request, or of one from another epoch or life; nil: go on.
local function refuse_walk(arguments)
  local problem
  if #KEYS ~= 1 or #ARGV ~= arguments then problem = 'arity'
  elseif #ARGV[1] ~= 8 then problem = 'epoch'
  elseif #ARGV[2] ~= 8 then problem = 'incarnation' end
  if problem then return refuse('BAD_REQUEST', false, problem) end
  local fence = redis.call('HGET', KEYS[1], 'f')
  local epoch, role, incarnation
  if fence then epoch, role, incarnation = read_fence(fence) end
  local refusal = refuse_by_fence(fence, epoch, role, incarnation)
  if refusal then return refusal end
  if role ~= OWNER then return refuse('WRONG_ROLE', fence, '', true) end
end
