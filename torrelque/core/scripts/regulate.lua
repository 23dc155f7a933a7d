-- Set the limits of a group or the default of all groups, copy them from another shard, or place groups again after the
-- default changed.
-- KEYS: pending delayed working wake timer counters groups lane
-- ARGV: lane nonce sequence, then limit, a group or * for the default, and its words: concurrency, deliveries, period in
--   microseconds, burst, weight, ordered (1 or 0) and dead (hold or pass), each - to take the default's; copy, the same name,
--   and the record of the other shard: its revision and the words; or recheck, blocked or held, and a cursor
-- returns: OK and o; of recheck the next cursor ('0' at the end). A copy and a recheck need no lane: they do not replace a
--   later revision.

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local shards = totals('shards')
look(ARGV[4] == 'copy') -- which all roles do
look_at_lines(true)
local mode, name, text = ARGV[4], ARGV[5], ARGV[6]
if mode == 'recheck' then
  local part = redis.call('ZSCAN', groups .. ':' .. name, text, 'COUNT', 250)
  begin_writing()
  for at = 1, #part[2], 2 do
    touch(part[2][at])
  end
  hint()
  return part[1]
end
local revision = number(string.match(redis.call('HMGET', groups .. ':limits', name)[1] or '', '^%d+'), 0)
if mode == 'limit' then
  redis.call('PTTL', counters) -- who may change this may do that, and others may not
  text = whole(math.max(revision + 1, math.floor(now * 1000))) .. ' ' .. text
end

begin_writing()
if number(string.match(text, '^%d+'), 0) > revision then
  if string.find(text, '^%d+[ -]+$') and not shards then
    redis.call('HDEL', groups .. ':limits', name)
  else
    redis.call('HSET', groups .. ':limits', name, text)
  end
  if not has_used('g') then
    features = (features or '') .. 'g'
    redis.call('HSET', counters, 'uses', features)
  end
  if name == '*' then
    rechecking = true
    redis.call('HSET', counters, 'recheck', 'blocked 0') -- in case the caller does not go on with it
  else
    touch(name)
  end
end
hint()
return leave('o')
