-- Move claimed tasks to the dead letters, with their payloads.
-- KEYS: pending delayed working tasks task wake timer counters rejected groups lane
-- ARGV: lane nonce sequence, then for each task: id token dequeue_count reason cap (the maximum number of dead letters, or
--   ''; the first item's counts)
-- returns: OK and a letter for each task: o ok, l claim lost, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local refused = totals('rejected')
look()
redis.call('ZCARD', rejected)
redis.call('HLEN', tasks)
local items, answers = claimed_items(5, read_claim)

begin_writing(ARGV[8])
leave_working(ids_of(items))
for _, item in ipairs(items) do
  item.reason = ARGV[item.at + 3]
end
bury(items)
add('rejected', refused, #items)
trim(ARGV[8], #items)
hint()
return leave(table.concat(answers))
