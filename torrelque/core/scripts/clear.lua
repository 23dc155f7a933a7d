-- Remove the results of finished tasks from a former home of their ids, because these ids are about to be used again.
-- KEYS: counters tasks task
-- ARGV: the layout's generation, then the ids
-- returns: OK, or RESHARDED with nothing changed if another generation is recorded

if number(totals('generation'), 0) ~= tonumber(ARGV[1]) then
  return { 'RESHARDED' }
end
local states = {}
for index = 2, #ARGV do
  if redis.call('HEXISTS', tasks, ARGV[index]) == 0 then
    states[#states + 1] = state_key(ARGV[index])
  end
end
remove_keys(states)
return { 'OK' }
