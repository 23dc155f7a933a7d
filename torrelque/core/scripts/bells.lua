-- The hint of a queue with shards. Consumers wait for all shards of a server on one key. While they wait, the `bell` of
-- each of these shards names that key. A shard rings by adding the name of its own hint there; the first to ring is first.

local function summon(left)
  local ring = redis.pcall('GET', bell)
  if type(ring) ~= 'string' then
    return -- nobody waits
  elseif left > 1 then
    redis.pcall('ZADD', ring, 'NX', present, wake, present, wake .. '+')
  else
    redis.pcall('ZADD', ring, 'NX', present, wake)
  end
end

local function hint(empty, left, event)
  local free = not (features and string.find(features, left and not touched and '[pl]' or '[plgh]')) -- of pauses and limits
  left = left or free and redis.call('LLEN', pending)
  local up = free and left > 0
  if not up then
    -- rarely
    left = free and 0 or available(left)
    event = left == 0 and (event or earliest())
    up = left > 0 or (event and (event <= now or (event <= now + HORIZON and not covered(event))))
    -- end
  end
  if up then
    summon(left)
  elseif empty then
    local ring = redis.pcall('GET', bell)
    if type(ring) == 'string' then
      redis.pcall('ZREM', ring, wake, wake .. '+')
    end
  end
end

local function shards_of()
  return nil -- the caller knows
end
