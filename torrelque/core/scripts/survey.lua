-- Look at all shards of a queue that are on one server, and have them ring where the caller is going to wait. This changes
-- nothing else, so it may alternate reads and writes.
-- KEYS: ring counters
-- ARGV: for how many milliseconds they ring there (0 if the caller does not wait any more; then shards with tasks ring for
--   other clients), how many shards one command may look at, the bell that all shards share (empty if each has one), what
--   the keys tasks pending delayed working timer wake counters bell schedules groups have after the shard's name, then the
--   shards' names
-- returns: the layout's generation as recorded on the shard of the declared keys, or ''; then for each shard that has
--   something, separated by blanks, its place among the names, =, and how many tasks are available; e if an event is near
--   that no client handles; x if it could not be read, because its slot is not on this server

local lifetime, together, shared = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] ~= '' and ARGV[3]
local TASKS, LISTED, LATER, CLAIMED, TIMER, WAKE, TOTALS, BELL = 4, 5, 6, 7, 8, 9, 10, 11 -- places in ARGV
local SCHEDULES, GROUPS, NAMES = 12, 13, 14

local function first_time(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

local function finding_of(shard)
  local counters = shard .. ARGV[TOTALS]
  local due, stale = first_time(shard .. ARGV[LATER]), first_time(shard .. ARGV[CLAIMED])
  local event = due and stale and math.min(due, stale) or due or stale
  local finding = redis.call('LLEN', shard .. ARGV[LISTED])
  local values = redis.call('HMGET', counters, 'uses', 'limits', 'arrival', 'shards', 'paused')
  local uses, till = values[1] or '', in_force(values[1], values[5])
  if string.find(uses, 's', 1, true) then
    local slot = tonumber(redis.pcall('ZRANGE', shard .. ARGV[SCHEDULES], 0, 0, 'WITHSCORES')[2])
    slot = slot and math.max(slot, till or slot)
    event = slot and slot < math.huge and math.min(event or slot, slot) or event
  end
  if string.find(uses, 'h', 1, true) then
    finding = finding + redis.call('LLEN', shard .. ARGV[LISTED] .. ':high')
      + redis.call('LLEN', shard .. ARGV[LISTED] .. ':low')
  end
  if string.find(uses, 'g', 1, true) then
    finding = finding + redis.call('ZCARD', shard .. ARGV[GROUPS])
    local time = first_time(shard .. ARGV[GROUPS] .. ':held')
    event = time and time < math.huge and math.min(event or time, time) or event
  end
  if finding > 0 and string.find(uses, '[pl]') then
    local limits = parse_limits(values, counters)
    local most, time = allowed_by(limits, limits.slots and redis.call('ZCARD', shard .. ARGV[CLAIMED]))
    time = till and math.max(till, time or till) or time
    finding = till and 0 or math.min(finding, most)
    if time and time < math.huge then
      event = math.min(event or time, time)
    end
  end
  if event and event <= now then
    finding = math.max(finding, 1)
  elseif finding == 0 and event and event <= now + HORIZON then
    local held = redis.call('GET', shard .. ARGV[TIMER])
    local minded = held and tonumber(string.match(held, '|(.*)$') or '')
    finding = minded and minded <= event and 0 or 'e'
  end
  return finding
end

-- Have a shard ring for the caller, unless the bell that all share does; or for others, if it has something.
local function register(shard, finding)
  if lifetime > 0 and not shared then
    put(shard .. ARGV[BELL], ring, lifetime)
  elseif lifetime == 0 and finding ~= 0 then
    local other = redis.call('GET', shared or shard .. ARGV[BELL])
    if other then
      redis.pcall('ZADD', other, 'NX', present, shard .. ARGV[WAKE])
    end
  end
  return finding
end

local function look(shard)
  return register(shard, finding_of(shard))
end

-- Whether none of these shards has a task or a schedule. An error, because a slot has left this server, does not say so. One
-- command for each, because a role with selectors has no right to read both in one.
local function are_empty(first, last)
  for _, tail in ipairs({ ARGV[TASKS], ARGV[SCHEDULES] }) do
    local keys = {}
    for at = first, last do
      keys[#keys + 1] = ARGV[at] .. tail
    end
    local none = redis.pcall('EXISTS', unpack(keys)) == 0
    if not none then
      return false
    end
  end
  return true
end

local generation = totals('generation')
redis.call('ZREM', ring, '')
if shared and lifetime > 0 then
  put(shared, ring, lifetime)
end
local findings = {}
for first = NAMES, #ARGV, together do
  local last = math.min(first + together - 1, #ARGV)
  local empty = are_empty(first, last)
  for at = first, empty and shared and first - 1 or last do
    local looked, finding = pcall(empty and register or look, ARGV[at], 0)
    if not looked or finding ~= 0 then
      findings[#findings + 1] = at - NAMES .. '=' .. (looked and finding or 'x')
    end
  end
end
return { generation or '', table.concat(findings, ' ') }
