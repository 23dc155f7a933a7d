-- The hint of a queue with shards. Consumers wait for all shards of a server on one key. While they wait, the `bell` of
-- each of these shards names that key. A shard rings by adding the name of its own hint there; the first to ring is first.

local function hint(empty, left, event)
  left = left or redis.call('LLEN', pending)
  local up = left > 0 and not features
  if not up then
    -- rarely
    left = features and permitted(left) or 0
    event = left == 0 and (event or earliest())
    up = left > 0 or (event and (event <= now or (event <= now + HORIZON and not covered(event))))
    -- end
  end
  local ring = (up or empty) and redis.pcall('GET', bell)
  if type(ring) ~= 'string' then
    return -- nobody waits
  elseif not up then
    redis.pcall('ZREM', ring, wake, wake .. '+')
  elseif left > 1 then
    redis.pcall('ZADD', ring, 'NX', present, wake, present, wake .. '+')
  else
    redis.pcall('ZADD', ring, 'NX', present, wake)
  end
end

local function shards_of()
  return nil -- the caller knows
end
