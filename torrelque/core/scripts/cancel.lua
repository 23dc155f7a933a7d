-- Remove a pending or delayed task. This is the only verb whose cost grows with the queue: it searches pending for the id.
-- KEYS: pending delayed working tasks task wake timer counters lane
-- ARGV: lane nonce sequence id
-- returns: OK and o ok, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
totals()
look()
local id = ARGV[4]
local known = redis.call('HEXISTS', tasks, id) == 1 and not redis.call('ZSCORE', working, id)
local state = read_claim(id)

begin_writing()
local letter = 'u'
if not state then
  letter = 'x'
elseif known and (redis.call('ZREM', delayed, id) == 1 or redis.call('LREM', pending, 0, id) > 0) then
  redis.call('HDEL', tasks, id)
  redis.call('DEL', state_key(id))
  redis.pcall('PUBLISH', state_key(id), whole(state.revision + 1) .. ' cancelled')
  letter = 'o'
end
hint()
return leave(letter)
