-- Make a lane: a record that makes the calls of one client safe to repeat, cancel and delay.
-- KEYS: epoch counters lane
-- ARGV: nonce
-- returns: the lane's number. A repeat leaves a lane that is never used, and expires.

totals()
local last = number(redis.call('GET', epoch), 0)
local new = string.format('%.0f', math.max(last + 1, math.floor(now * 1000000)))
begin_writing()
redis.call('SET', epoch, new)
put(lane .. ':' .. new, '0 ' .. ARGV[1] .. ' closed ', LANE_TTL)
return new
