-- Count a queue's tasks at one moment.
-- KEYS: pending delayed working tasks task counters rejected
-- ARGV: none
-- returns: tasks except dead letters, pending, working, delayed, rejected, age of the oldest pending in seconds or '',
--   then the totals: enqueued, claimed, completed, requeued, rejected

local refused = redis.call('ZCARD', rejected)
local age = ''
local oldest = redis.call('LINDEX', pending, -1)
if oldest then
  local time = redis.pcall('HGET', state_key(oldest), 'enqueue_time')
  time = type(time) == 'string' and number(time, nil)
  age = time and stamp(math.max(0, now - time)) or ''
end
local reply = {
  redis.call('HLEN', tasks) - refused, redis.call('LLEN', pending), redis.call('ZCARD', working),
  redis.call('ZCARD', delayed), refused, age,
}
for _, total in ipairs(redis.call('HMGET', counters, 'enqueued', 'claimed', 'completed', 'requeued', 'rejected')) do
  reply[#reply + 1] = whole(number(total, 0))
end
return reply
