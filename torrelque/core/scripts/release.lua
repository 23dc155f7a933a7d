-- Remove tasks that were worked off; with a result, keep the state for a while.
-- KEYS: pending delayed working tasks task wake timer counters lane
-- ARGV: lane nonce sequence, then for each task: id token dequeue_count status ttl result (ttl in ms, '' without a result)
-- returns: OK and a letter for each task: o ok, l claim lost, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local completed, refused = totals('completed', 'rejected')
look()
redis.call('HLEN', tasks)
local items, answers = claimed_items(6, read_claim)

begin_writing()
local ids, states, refusals = ids_of(items), {}, 0
variadic('ZREM', working, ids)
variadic('HDEL', tasks, ids)
for _, item in ipairs(items) do
  local state, status, ttl = item.state, ARGV[item.at + 3], ARGV[item.at + 4]
  if status == REJECTED then
    refusals = refusals + 1
  end
  if ttl == '' then
    states[#states + 1] = state.key
    redis.pcall('PUBLISH', state.key, whole(state.revision + 1) .. ' ' .. status)
  else
    redis.call('HDEL', state.key, 'claim')
    transition(state, status, 'result', ARGV[item.at + 5], 'release_time', present)
    expire(state.key, ttl)
  end
end
remove_keys(states)
add('completed', completed, #items - refusals)
add('rejected', refused, refusals)
hint()
return leave(table.concat(answers))
