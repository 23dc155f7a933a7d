-- End claims as if the tasks had not been delivered: they return to the front of pending, in order, and the delivery does
-- not count.
-- KEYS: pending delayed working tasks task wake timer counters groups lane
-- ARGV: lane nonce sequence, then for each task: id token dequeue_count
-- returns: OK and a letter for each task: o ok, l claim lost, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
totals()
look()
local items, answers = claimed_items(3, read_claim)
local kept, called_off = split_called_off(items)

begin_writing()
give_back(kept, called_off)
hint()
return leave(table.concat(answers))
