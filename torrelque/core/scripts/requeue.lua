-- Return claimed tasks to the back of pending, or to delayed.
-- KEYS: pending delayed working tasks task wake timer counters lane
-- ARGV: lane nonce sequence, then for each task: id token dequeue_count delay timeout uncounted (the last three may be '';
--   uncounted: 1 if this delivery does not count as an attempt)
-- returns: OK and a letter for each task: o ok, l claim lost, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local requeued = totals('requeued')
look()
local items, answers = claimed_items(6, read_state)
local kept, called_off = split_called_off(items)

begin_writing()
variadic('ZREM', working, ids_of(items))
remove_cancelled(called_off)
local pushed, later = {}, {}
for _, item in ipairs(kept) do
  local id, state, delay, timeout = item.id, item.state, ARGV[item.at + 3], ARGV[item.at + 4]
  redis.call('HDEL', state.key, 'claim')
  local fields = {}
  if timeout ~= '' then
    fields = { 'timeout', timeout }
  end
  if ARGV[item.at + 5] ~= '' then
    fields[#fields + 1] = 'dequeue_base'
    fields[#fields + 1] = whole(math.min(state.dequeue_base + 1, state.dequeue_count))
  end
  if delay ~= '' then
    later[#later + 1] = due_time(state, delay)
    later[#later + 1] = id
    transition(state, DELAYED, unpack(fields))
  else
    pushed[#pushed + 1] = id
    fields[#fields + 1], fields[#fields + 2] = 'last_requeue_time', present
    fields[#fields + 1], fields[#fields + 2] = 'requeue_count', whole(state.requeue_count + 1)
    transition(state, PENDING, unpack(fields))
  end
end
variadic('LPUSH', pending, pushed)
variadic('ZADD', delayed, later)
add('requeued', requeued, #kept)
hint()
return leave(table.concat(answers))
