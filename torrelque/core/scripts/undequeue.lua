-- A step of the sweep for tasks that a 0.9 consumer moved to dequeueing and did not claim. Those that two consecutive sweeps
-- see there return to pending. The client compares, in pages; this script carries out a page.
-- KEYS: pending delayed working dequeueing undequeued wake timer counters groups lane
-- ARGV: how many ids to return to pending, how many to record as seen, then these ids, then ids to forget
-- returns: how many were returned

totals()
look(true)
redis.call('LLEN', dequeueing)
redis.call('SCARD', undequeued)
local to_return, to_mark = tonumber(ARGV[1]), tonumber(ARGV[2])
local returned, marked, forgotten = {}, {}, {}
for index = 3, #ARGV do
  local place = index - 2
  local list = place <= to_return and returned or place <= to_return + to_mark and marked or forgotten
  list[#list + 1] = ARGV[index]
end

begin_writing()
local pushed = {}
for _, id in ipairs(returned) do
  forgotten[#forgotten + 1] = id
  if redis.call('LREM', dequeueing, 0, id) > 0 then
    pushed[#pushed + 1] = id
  end
end
variadic('SREM', undequeued, forgotten)
variadic('SADD', undequeued, marked)
variadic('LPUSH', pending, pushed)
hint()
return #pushed
