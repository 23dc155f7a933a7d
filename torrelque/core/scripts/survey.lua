-- Look at all shards of a queue that are on one server, and have them ring where the caller is going to wait. This changes
-- nothing else, so it may alternate reads and writes.
-- KEYS: ring counters
-- ARGV: for how many milliseconds they ring there (0 if the caller does not wait any more; then shards with tasks ring for
--   other clients), then for each shard its pending delayed working timer bell wake counters
-- returns: the layout's generation as recorded on the shard of the declared keys, or ''; then for each shard, separated by
--   blanks: how many tasks are available; e if an event is near that no client handles; x if it could not be read, because
--   its slot is not on this server

local lifetime = tonumber(ARGV[1])

local function first_time(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

local function finding_of(pending, delayed, working, timer, bell, wake, counters)
  local due, stale = first_time(delayed), first_time(working)
  local event = due and stale and math.min(due, stale) or due or stale
  local finding = redis.call('LLEN', pending)
  local values = finding > 0 and redis.call('HMGET', counters, 'uses', 'limits', 'arrival', 'shards', 'paused') or {}
  if string.find(values[1] or '', '[pl]') then
    local limits, till = parse_limits(values, counters), in_force(values[1], values[5])
    local most, time = allowed_by(limits, limits.slots and redis.call('ZCARD', working))
    time = till and math.max(till, time or till) or time
    finding = till and 0 or math.min(finding, most)
    if time and time < math.huge then
      event = math.min(event or time, time)
    end
  end
  if event and event <= now then
    finding = math.max(finding, 1)
  elseif finding == 0 and event and event <= now + HORIZON then
    local held = redis.call('GET', timer)
    local minded = held and tonumber(string.match(held, '|(.*)$') or '')
    finding = minded and minded <= event and 0 or 'e'
  end
  if lifetime > 0 then
    put(bell, ring, lifetime)
  elseif finding ~= 0 then
    local other = redis.call('GET', bell)
    if other then
      redis.pcall('ZADD', other, 'NX', present, wake)
    end
  end
  return finding
end

local generation = totals('generation')
redis.call('ZREM', ring, '')
local findings = {}
for at = 2, #ARGV, 7 do
  local looked, finding = pcall(finding_of, unpack(ARGV, at, at + 6))
  findings[#findings + 1] = looked and finding or 'x'
end
return { generation or '', table.concat(findings, ' ') }
