-- Record how many shards a queue has, on the queue itself or on one of its shards, unless a later generation did.
-- KEYS: counters
-- ARGV: generation, how many (of the queue itself the former numbers, too, with blanks between)
-- returns: what is recorded then: generation, how many

local generation = number(redis.call('HGET', counters, 'generation'), 0)
local intended = redis.call('HGET', counters, 'intended')
if tonumber(ARGV[1]) > generation then
  generation = tonumber(ARGV[1])
  redis.call('HSET', counters, 'generation', ARGV[1], 'shards', ARGV[2])
end
if intended and number(string.match(intended, '^%d+'), 0) <= generation then
  redis.call('HDEL', counters, 'intended')
end
return { generation, redis.call('HGET', counters, 'shards') }
