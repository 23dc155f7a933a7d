-- Record the number of shards of a queue: in its own counters, on a shard, or in the keys that it would have without shards.
-- KEYS: counters
-- ARGV: generation, the number of shards and former numbers separated by blanks, then
--   set (unless a later generation is recorded), intend (record it as intended, unless another layout is), or open (the
--   same, with a generation made from the server's time), then for a shard its bell, and what to ring there
-- returns: what is recorded then: generation (0 for nothing), numbers; or FOREIGN if the key belongs to a queue without shards

local recorded, intended, shards, enqueued = totals('generation', 'intended', 'shards', 'enqueued')
if not recorded and not intended and number(enqueued, 0) > 0 then
  return { 'FOREIGN' }
end
local generation = number(recorded, 0)
local wanted, mode = tonumber(ARGV[1]), ARGV[3]
if mode == 'set' and (not recorded or wanted > generation) then
  generation, shards = wanted, ARGV[2]
  redis.call('HSET', counters, 'generation', ARGV[1], 'shards', ARGV[2])
  local ring = ARGV[4] and redis.pcall('GET', ARGV[4])
  if type(ring) == 'string' then
    redis.pcall('ZADD', ring, 'NX', present, ARGV[5]) -- consumers that wait have to look at all shards
  end
end
if intended and number(string.match(intended, '^%d+'), 0) <= generation then
  redis.call('HDEL', counters, 'intended')
  intended = false
end
if mode ~= 'set' and not intended then
  local new = mode == 'open' and whole(math.floor(now * 1000)) or ARGV[1]
  redis.call('HSET', counters, 'intended', new .. ' ' .. ARGV[2])
end
return { whole(generation), shards or '' }
