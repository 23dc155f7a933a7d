-- Pause or resume a queue, set its limits, or copy the record of both from another shard.
-- KEYS: pending delayed working wake timer counters groups lane
-- ARGV: lane nonce sequence, then pause, its end (Unix time, or inf) and its reason ('' keeps that of a pause in force);
--   resume; limit and the limits: how many claims at once, how many deliveries in how many microseconds, and in a burst, each
--   - for none, or '' for no limits; or copy and the record of the other shard: revision, the end of the pause, its beginning,
--   its reason, the limits
-- returns: OK and a letter: o ok, u nothing changed because the end is not in the future. A copy needs no lane, because it
--   does not replace a later revision.

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local revision, till, since, reason, text = totals('flow', 'paused', 'paused_since', 'paused_reason', 'limits')
look(true)
local mode, new = ARGV[4], { '0', till or '', since or '', reason or '', text or '' }
if mode == 'copy' then
  new = { unpack(ARGV, 5) }
else
  redis.call('PTTL', counters) -- who may change this may do that, and others may not
  new[1] = whole(math.max(number(revision, 0) + 1, math.floor(now * 1000)))
  if mode == 'limit' then
    new[5] = ARGV[5]
  elseif mode == 'resume' then
    new[2], new[3], new[4] = '', '', ''
  else
    local paused = in_force(features, till)
    new[2], new[3] = ARGV[5], paused and since or present
    new[4] = ARGV[6] == '' and paused and reason or ARGV[6]
  end
end
local letter = 'o'
if mode == 'pause' and tonumber(new[2]) and tonumber(new[2]) <= now then
  letter = 'u'
end

begin_writing()
if letter == 'o' and number(new[1], 0) > number(revision, 0) then
  features = string.gsub(features or '', '[pl]', '') .. (new[2] == '' and '' or 'p') .. (new[5] == '' and '' or 'l')
  redis.call('HSET', counters, 'uses', features, 'flow', new[1], 'paused', new[2], 'paused_since', new[3],
    'paused_reason', new[4], 'limits', new[5])
  if new[5] ~= (text or '') then
    redis.call('HSET', counters, 'limited_since', whole(microseconds(now)))
  end
  count_deliveries(0)
end
hint()
return leave(letter)
