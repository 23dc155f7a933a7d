-- Announce a worker, or remove its announcement. Each call also removes some expired announcements, and the key itself
-- expires after the last one, so no other clean-up is needed.
-- KEYS: workers counters
-- ARGV: how long an announcement lasts (ms), the worker's id, then how long it has run (s) and its description; without the
--   last two, the worker has ended
-- returns: OK. It needs no lane: after a late repeat, a worker that has ended is listed for as long as one that was killed

totals()
local lifetime, id, age = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local gone = { age and '' or id } -- '' is never an id
local some = redis.call('HRANDFIELD', workers, 20, 'WITHVALUES')
for at = 1, #some, 2 do
  local seen = number(string.match(some[at + 1], '^%S+'), 0)
  if math.abs(now - seen) * 1000 > lifetime then
    gone[#gone + 1] = some[at]
  end
end
redis.call('HDEL', workers, unpack(gone))
if age then
  redis.call('HSET', workers, id, present .. ' ' .. stamp(now - tonumber(age)) .. ' ' .. ARGV[4])
  expire(workers, lifetime)
end
return 'OK'
