-- Write the progress of claimed tasks, and publish it. A report names its claim, and is ignored once the claim has ended.
-- KEYS: working task counters lane
-- ARGV: lane nonce sequence, then for each task: id token dequeue_count text
-- returns: OK and a letter for each task: o ok, l claim lost, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
totals()
local items, answers = claimed_items(4, read_claim, true)

begin_writing()
for _, item in ipairs(items) do
  local state = item.state
  redis.call('HSET', state.key, 'progress',
    (state.claim and state.claim.token or '') .. ' ' .. whole(state.dequeue_count) .. ' ' .. present .. ' ' .. ARGV[item.at + 3])
  redis.pcall('PUBLISH', state.key, whole(state.revision) .. ' progress')
end
return leave(table.concat(answers))
