-- Delete dead letters.
-- KEYS: pending delayed working tasks task wake timer rejected counters groups lane
-- ARGV: lane nonce sequence, then for each: id before (only if rejected no later than this Unix time; '' for any time)
-- returns: OK and a letter for each: o ok, u no dead letter, or one that was rejected later

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
totals()
look()
local ids = {}
for at = 4, #ARGV, 2 do
  ids[#ids + 1] = ARGV[at]
end
redis.call('HLEN', tasks)
local scores = read('ZMSCORE', rejected, ids)
local answers, gone, states, seen = {}, {}, {}, {}
for index, id in ipairs(ids) do
  local before = tonumber(ARGV[3 + 2 * index])
  if scores[index] and not seen[id] and (not before or tonumber(scores[index]) <= before) then
    seen[id] = true
    answers[index] = 'o'
    gone[#gone + 1] = id
    states[#states + 1] = state_key(id)
  else
    answers[index] = 'u'
  end
end

begin_writing()
if has_used('g') then
  -- rarely
  release_groups(gone)
  -- end
end
variadic('ZREM', rejected, gone)
variadic('HDEL', tasks, gone)
remove_keys(states)
hint()
return leave(table.concat(answers))
