-- A step of deleting a queue: remove up to 250 of its schedules, or of its tasks from one collection, and return whether any
-- are left.
-- KEYS: pending dequeueing working delayed tasks task wake timer rejected counters schedules schedule groups lane
-- ARGV: lane nonce sequence, then 1 to remove tasks, or 0 only to check
-- returns: OK and e if there are schedules, tasks or ids without a task, o if not

local MOST = 250

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
totals()
look()

-- Only one collection per step, so that no task is removed in part.
local ids, list, set = {}, nil, nil
for _, key in ipairs({ pending, dequeueing, pending .. ':high', pending .. ':low' }) do
  if #ids == 0 then
    ids, list = redis.call('LRANGE', key, -MOST, -1), key
  end
end
local name
for _, key in ipairs({ groups, groups .. ':blocked', groups .. ':held' }) do
  if #ids == 0 and not name then
    name = redis.call('ZRANGE', key, 0, 0)[1]
  end
end
local broken
if name then
  list = group_key('pending', name)
  ids = redis.pcall('LRANGE', list, -MOST, -1)
  broken = mistyped(ids)
  ids = broken and {} or ids
end
for _, key in ipairs({ working, delayed, rejected }) do
  if #ids == 0 and not name then
    ids, list, set = redis.call('ZRANGE', key, 0, MOST - 1), nil, key
  end
end
if #ids == 0 and not name then
  ids, set = redis.call('HRANDFIELD', tasks, MOST), nil
end
redis.call('HLEN', tasks)
redis.call('LLEN', dequeueing)
redis.call('ZCARD', rejected)
local schedule_ids = redis.call('ZRANGE', schedules, 0, MOST - 1) -- they go first, because they add tasks
if #schedule_ids > 0 then
  ids, list, set, name, broken = {}, nil, nil, nil, nil
end
local states, told = {}, {}
for index, id in ipairs(ARGV[4] == '1' and ids or {}) do
  local state = read_claim(id)
  states[index] = state_key(id)
  told[index] = state and whole(state.revision + 1) .. ' cancelled'
end

begin_writing()
if ARGV[4] == '1' then
  variadic('ZREM', schedules, schedule_ids)
  for _, id in ipairs(schedule_ids) do
    redis.call('DEL', schedule .. ':' .. id)
  end
  leave_groups(ids)
  release_groups(ids)
  if name then
    touch(name)
  end
  if broken then
    redis.call('DEL', list)
  elseif list then
    redis.call('LTRIM', list, 0, -(#ids + 1))
  elseif set then
    variadic('ZREM', set, ids)
  end
  variadic('HDEL', tasks, ids)
  remove_keys(states)
  for index, key in ipairs(states) do
    if told[index] then
      redis.pcall('PUBLISH', key, told[index])
    end
  end
end
hint()
local left = count_lines() + redis.call('HLEN', tasks) + redis.call('LLEN', dequeueing)
  + redis.call('ZCARD', working) + redis.call('ZCARD', delayed) + redis.call('ZCARD', rejected)
  + size_of('ZCARD', groups .. ':blocked') + size_of('ZCARD', groups .. ':held') + redis.call('ZCARD', schedules)
return leave(left > 0 and 'e' or 'o')
