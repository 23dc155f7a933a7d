-- Count a queue's tasks at one moment. Where there are groups, those that are in no other collection are pending. The age of
-- the oldest is that of the front of pending and its levels, and of the groups that were blocked first or are served next.
-- KEYS: pending delayed working tasks task counters rejected groups
-- ARGV: none
-- returns: tasks except dead letters, pending, working, delayed, rejected, age of the oldest pending in seconds or '',
--   then the totals: enqueued, claimed, completed, requeued, rejected, expired; then when a pause ends (inf: when
--   the queue is resumed), when it began and its reason, or three times '' if the queue is not paused; then the limits or '', how many
--   tasks are pending with high and with low priority, how many groups can be served, are blocked and are held, and how many
--   schedules there are

local refused = redis.call('ZCARD', rejected)
local values = redis.call('HMGET', counters, 'enqueued', 'claimed', 'completed', 'requeued', 'rejected', 'expired', 'uses',
  'paused', 'paused_since', 'paused_reason', 'limits', 'schedules')
features = values[7] ~= '' and values[7]
local count, claimed, later = redis.call('LLEN', pending), redis.call('ZCARD', working), redis.call('ZCARD', delayed)
local queued, lists = redis.call('HLEN', tasks) - refused, { pending }
local high, low, ready, blocked, held = 0, 0, 0, 0, 0
if has_used('h') then
  lists[2], lists[3] = pending .. ':high', pending .. ':low'
  high, low = redis.call('LLEN', lists[2]), redis.call('LLEN', lists[3])
  count = count + high + low
end
if has_used('g') then
  ready, blocked = redis.call('ZCARD', groups), redis.call('ZCARD', groups .. ':blocked')
  held = redis.call('ZCARD', groups .. ':held')
  count = math.max(0, queued - claimed - later)
  for _, key in ipairs({ groups, groups .. ':blocked' }) do
    for _, name in ipairs(redis.call('ZRANGE', key, 0, 19)) do
      lists[#lists + 1] = group_key('pending', name)
    end
  end
end
local first
for _, list in ipairs(lists) do
  local oldest = redis.call('LINDEX', list, -1)
  local time = oldest and redis.pcall('HGET', state_key(oldest), 'enqueue_time')
  time = type(time) == 'string' and number(time, nil)
  first = time and math.min(first or time, time) or first
end
local age = first and stamp(math.max(0, now - first)) or ''
local reply = { queued, count, claimed, later, refused, age }
for index = 1, 6 do
  reply[#reply + 1] = whole(number(values[index], 0))
end
local paused = in_force(values[7], values[8])
for index = 8, 10 do
  reply[#reply + 1] = paused and values[index] or ''
end
reply[#reply + 1] = has_used('l') and values[11] or ''
for _, size in ipairs({ high, low, ready, blocked, held }) do
  reply[#reply + 1] = size
end
reply[#reply + 1] = has_used('s') and values[12] and redis.call('ZCARD', values[12]) or 0
return reply
