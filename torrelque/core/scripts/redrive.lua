-- Return dead letters to the back of pending, or to the front of a group that they hold. Their deliveries count from 0 again,
-- and they do not expire.
-- KEYS: pending delayed working tasks task wake timer rejected counters groups lane
-- ARGV: lane nonce sequence, then an id for each
-- returns: OK and a letter for each: o ok, u no dead letter, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
totals()
redis.call('ZRANGEBYSCORE', rejected, 1, 0) -- nothing: producers may not do that
look()
local ids = {}
for at = 4, #ARGV do
  ids[#ids + 1] = ARGV[at]
end
local scores, payloads = read('ZMSCORE', rejected, ids), read('HMGET', tasks, ids)
local answers, items, seen = {}, {}, {}
for index, id in ipairs(ids) do
  local dead = scores[index] and payloads[index] and not seen[id]
  local state = dead and read_state(id)
  if not dead then
    answers[index] = 'u'
  elseif not state then
    answers[index] = 'x'
  else
    seen[id] = true
    answers[index] = 'o'
    items[#items + 1] = { id = id, state = state }
  end
end

begin_writing()
local back, front = ids_of(items), {}
if has_lines() then
  -- rarely
  local holding, others = release_groups(back), {}
  for _, id in ipairs(back) do
    table.insert(holding[id] and front or others, id)
  end
  back = others
  -- end
end
variadic('ZREM', rejected, ids_of(items))
for _, item in ipairs(items) do
  redis.call('HDEL', item.state.key, 'claim', 'reason', 'release_time', 'expires', 'on_expiry')
  transition(item.state, PENDING, 'dequeue_base', whole(item.state.dequeue_count))
end
line_up(back, 'back')
if #front > 0 then
  -- rarely
  line_up(front, 'front')
  -- end
end
hint()
return leave(table.concat(answers))
