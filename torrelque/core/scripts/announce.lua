-- List a worker for a while, or no longer. Each call also removes some workers that were not seen in time, and the key
-- expires after the last: no cleaner is needed.
-- KEYS: workers counters
-- ARGV: for how long a worker is listed (ms), its id, then for how long it has worked (s) and what it says of itself; it
--   has ended if these two are missing
-- returns: OK. It needs no lane: a late repeat lists a worker that has ended for as long as one that was killed

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
