-- Return claimed tasks to the back of pending, or to delayed. A task of an ordered group returns to the front of the group,
-- which with a delay waits for it.
-- KEYS: pending delayed working tasks task wake timer counters groups lane
-- ARGV: lane nonce sequence, then for each task: id token dequeue_count delay timeout uncounted hold (the last four may be '';
--   uncounted: 1 if this delivery does not count as an attempt; hold: group to hold the task's group for the delay, whether
--   or not it is ordered, pass to let others of an ordered group pass)
-- returns: OK and a letter for each task: o ok, l claim lost, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local requeued = totals('requeued')
look()
local items, answers = claimed_items(7, read_state)
local kept, called_off = split_called_off(items)

begin_writing()
leave_working(ids_of(items))
remove_cancelled(called_off)
local pushed, later = {}, {}
local passed, waiting, holds = {}, {}, {} -- with groups: those that let others pass, and those that hold their group
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
  local hold, waits = ARGV[item.at + 6], false
  if has_used('g') and (delay ~= '' or hold ~= '') then
    -- rarely
    local _, name = line_of(id)
    if name and hold ~= 'pass' and delay ~= '' and (hold == 'group' or group_of(name).ordered) then
      holds[#holds + 1], waits = { id = id, name = name, state = state, delay = delay, is_own = hold ~= 'group' }, true
    end
    -- end
  end
  if delay ~= '' and not waits then
    later[#later + 1] = due_time(state, delay)
    later[#later + 1] = id
    transition(state, DELAYED, unpack(fields))
  else
    local list = waits and waiting or hold == 'pass' and passed or pushed
    list[#list + 1] = id
    fields[#fields + 1], fields[#fields + 2] = 'last_requeue_time', present
    fields[#fields + 1], fields[#fields + 2] = 'requeue_count', whole(state.requeue_count + 1)
    transition(state, PENDING, unpack(fields))
  end
end
line_up(pushed, 'return')
if #passed + #waiting > 0 then
  -- rarely
  line_up(passed, 'back')
  line_up(waiting, 'front')
  for _, each in ipairs(holds) do
    local time = now + tonumber(each.delay)
    hold_until(each.name, each.is_own and tonumber(due_time(each.state, each.delay)) or time, each.is_own and each.id or '')
  end
  -- end
end
variadic('ZADD', delayed, later)
add('requeued', requeued, #kept)
hint()
return leave(table.concat(answers))
