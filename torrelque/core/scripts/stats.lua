-- Count a queue's tasks at one moment.
-- KEYS: pending delayed working tasks task counters rejected
-- ARGV: none
-- returns: tasks except dead letters, pending, working, delayed, rejected, age of the oldest pending in seconds or '',
--   then the totals: enqueued, claimed, completed, requeued, rejected, expired; then when a pause ends (inf: when
--   the queue is resumed), when it began and its reason, or three times '' if the queue is not paused; then the limits or ''

local refused = redis.call('ZCARD', rejected)
local age = ''
local oldest = redis.call('LINDEX', pending, -1)
if oldest then
  local time = redis.pcall('HGET', state_key(oldest), 'enqueue_time')
  time = type(time) == 'string' and number(time, nil)
  age = time and stamp(math.max(0, now - time)) or ''
end
local values = redis.call('HMGET', counters, 'enqueued', 'claimed', 'completed', 'requeued', 'rejected', 'expired', 'uses',
  'paused', 'paused_since', 'paused_reason', 'limits')
local reply = {
  redis.call('HLEN', tasks) - refused, redis.call('LLEN', pending), redis.call('ZCARD', working),
  redis.call('ZCARD', delayed), refused, age,
}
for index = 1, 6 do
  reply[#reply + 1] = whole(number(values[index], 0))
end
local paused = in_force(values[7], values[8])
for index = 8, 10 do
  reply[#reply + 1] = paused and values[index] or ''
end
reply[#reply + 1] = string.find(values[7] or '', 'l', 1, true) and values[11] or ''
return reply
