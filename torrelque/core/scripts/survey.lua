-- Look at all shards of a queue that are on one server, and have them ring where the caller is going to wait. It changes
-- nothing else, so it may read and write by turns.
-- KEYS: ring
-- ARGV: for how many milliseconds they are to ring there (0: the caller waits no more, and what there is to do is rung to
--   whoever does), then for each shard its pending delayed working timer bell wake
-- returns: a letter for each shard: y there is something to do, e an event is near that nobody minds, n nothing, x it could
--   not be looked at, as its slot is not on this server

local lifetime = tonumber(ARGV[1])

local function first_time(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

local function letter_of(pending, delayed, working, timer, bell, wake)
  local due, stale = first_time(delayed), first_time(working)
  local event = due and stale and math.min(due, stale) or due or stale
  local letter = 'n'
  if redis.call('LLEN', pending) > 0 or (event and event <= now) then
    letter = 'y'
  elseif event and event <= now + HORIZON then
    local held = redis.call('GET', timer)
    local minded = held and tonumber(string.match(held, '|(.*)$') or '')
    letter = minded and minded <= event and 'n' or 'e'
  end
  if lifetime > 0 then
    put(bell, ring, lifetime)
  elseif letter ~= 'n' then
    local other = redis.call('GET', bell)
    if other then
      redis.pcall('ZADD', other, 'NX', present, wake)
    end
  end
  return letter
end

redis.call('ZREM', ring, '')
local letters = {}
for at = 2, #ARGV, 6 do
  local looked, letter = pcall(letter_of, unpack(ARGV, at, at + 5))
  letters[#letters + 1] = looked and letter or 'x'
end
return table.concat(letters)
