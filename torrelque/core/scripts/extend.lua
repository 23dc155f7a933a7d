-- Renew claims. A late repeat cannot shorten a lease, so the call is safe to repeat without a lane.
-- KEYS: working task counters lane
-- ARGV: '' '' '', then for each task: id token dequeue_count timeout (seconds; '' for the task's own)
-- returns: for each task its new deadline, preceded by an a if its holder was asked to end it; or a letter: l claim lost,
--   u unknown, x state of a wrong type

totals()
local items, answers = claimed_items(4, read_state, true)
local ids, scores, latest = ids_of(items), {}, {}
begin_writing()
for _, item in ipairs(items) do
  local timeout = tonumber(ARGV[item.at + 3]) or item.state.timeout
  local deadline = stamp(math.max(tonumber(latest[item.id] or item.score), now + timeout))
  latest[item.id] = deadline
  answers[(item.at - 4) / 4 + 1] = (is_called_off(item.state) and 'a' or '') .. deadline
  scores[#scores + 1] = deadline
  scores[#scores + 1] = item.id
end
variadic('ZREM', working, ids)
variadic('ZADD', working, scores)
for index, item in ipairs(items) do
  move_claim(item.state, item.score, scores[2 * index - 1])
end
return answers
