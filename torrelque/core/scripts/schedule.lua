-- Add or change a schedule, give it more times, remove it, or have it add a task now.
-- KEYS: pending delayed working tasks task wake timer counters rejected schedules schedule groups lane
-- ARGV: lane nonce sequence, the schedule's id, then
--   set and its owner or '', cron, time zone, every in seconds (either cron or every is ''), missed (skip or all), overlap (0
--   or 1), payload, timeout, delay, max_dequeues, headers, expires_in, on_expiry, group, level (the last seven may be '', and
--   at most one of group and level is not), and for cron its next times (otherwise ''); then, in a queue with shards, the
--   layout's generation, a rank, the rank that this shard has seen last, and the mark of the schedule's group, which follows
--   the id in the ids of its tasks;
--   refill and the revision, and the next times after those that it has;
--   remove and the owner that it must have, or '' for any; then, in a queue with shards, a rank;
--   fire and the time;
--   or what moves it between shards: hold, the revision and a rank, so that it does not fire; put and the values of `KEPT`,
--   held; retire, '' and a rank; activate and the rank with which it was held
-- In a queue with shards the revision of a schedule is the highest rank that a shard has seen. It refuses calls with a lower
-- one, also for a while where the schedule was before, so that no call that comes late makes a second copy.
-- returns: OK and a letter: n new, e existing and unchanged, r changed, w held by another owner, o ok, u unknown schedule or
--   revision, d not added because the task is queued already, a refused because of its rank, or because the schedule is held;
--   RESHARDED if another generation is recorded

local MOST = 32 -- times that are known ahead
local KEPT = { 'owner', 'cron', 'tz', 'every', 'missed', 'overlap', 'payload', 'timeout', 'delay', 'max_dequeues', 'headers',
  'expires_in', 'on_expiry', 'group', 'level', 'mark', 'anchor', 'next', 'upto', 'last', 'revision' }

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local enqueued, generation, schedules_name, schedule_name = totals('enqueued', 'generation', 'schedules', 'schedule')
redis.call('LLEN', pending)
redis.call('ZCARD', delayed)
redis.call('ZCARD', working)
redis.call('ZCARD', rejected)
local id, mode = ARGV[4], ARGV[5]
if mode == 'set' or mode == 'remove' or mode == 'fire' then
  redis.call('ZLEXCOUNT', schedules, '-', '-') -- only those who may keep schedules may do that
end
local key = schedule .. ':' .. id
local score = redis.call('ZSCORE', schedules, id)
local old = score and read_schedule(key) or nil

-- The old times and those of the new ones that come after `from`, at most `MOST`.
local function extend_times(slots, from, text)
  for _, slot in ipairs(slots_in(text)) do
    if slot > from and #slots < MOST then
      slots[#slots + 1], from = slot, slot
    end
  end
  return slots, from
end

local function set_times(fields, slots, is_held)
  fields[#fields + 1], fields[#fields + 2] = 'next', slots_text(slots)
  redis.call('HSET', key, unpack(fields)) -- on a full server, the script fails here with nothing done
  redis.call('ZADD', schedules, slots[1] and not is_held and stamp(slots[1] / 1000000) or stamp(now + DRY), id)
end

local function last_rank()
  return number(redis.call('HMGET', key, 'revision')[1], 0)
end

-- Whether this shard has seen a higher rank.
local function is_outranked(rank)
  return last_rank() > tonumber(rank)
end

-- Note for the other scripts that there are schedules.
local function mark_used()
  if not has_used('s') or schedules_name ~= schedules or schedule_name ~= schedule then
    features = (features or '') .. (has_used('s') and '' or 's')
    schedule_names = { schedules, schedule }
    redis.call('HSET', counters, 'uses', features, 'schedules', schedules, 'schedule', schedule)
  end
end

local modes = {}

function modes.set()
  local new, fields, same, rank = {}, {}, old ~= nil, ARGV[23]
  for index = 1, 15 do -- the first ones, which the caller says
    local name = KEPT[index]
    new[name] = ARGV[5 + index]
    same = same and old[name] == new[name]
    fields[2 * index - 1], fields[2 * index] = name, new[name]
  end
  if old and old.owner ~= '' and old.owner ~= new.owner then
    return 'w'
  end
  if rank and last_rank() ~= tonumber(ARGV[24]) then
    return 'a'
  end
  local slots, upto = {}, microseconds(now)
  if old and old.cron == new.cron and old.tz == new.tz and old.every == new.every then
    slots, upto = slots_in(old.next), math.max(upto, microseconds(number(old.upto, 0)))
  elseif new.every ~= '' then
    local anchor = math.floor(now)
    fields[#fields + 1], fields[#fields + 2] = 'anchor', whole(anchor)
    slots = { microseconds(anchor) + microseconds(tonumber(new.every)) }
    while slots[1] <= upto do
      slots[1] = slots[1] + microseconds(tonumber(new.every))
    end
  end
  slots, upto = extend_times(slots, upto, ARGV[21])
  fields[#fields + 1], fields[#fields + 2] = 'upto', slot_text(upto)
  if rank or not same then
    fields[#fields + 1] = 'revision'
    fields[#fields + 1] = rank or whole(math.max(old and number(old.revision, 0) + 1 or 0, math.floor(now * 1000)))
  end
  for index, name in ipairs(rank and { 'mark', 'held' } or {}) do
    fields[#fields + 1], fields[#fields + 2] = name, index == 1 and ARGV[25] or ''
  end
  set_times(fields, slots)
  if rank then
    redis.call('PERSIST', key)
  end
  mark_used()
  return not old and 'n' or same and 'e' or 'r'
end

function modes.refill()
  if not old or old.revision ~= ARGV[6] or old.held == '1' then
    return 'u'
  end
  local slots, upto = extend_times(slots_in(old.next), microseconds(number(old.upto, 0)), ARGV[7])
  begin_writing()
  set_times({ 'upto', slot_text(upto) }, slots)
  return 'o'
end

function modes.remove()
  local owner, rank = old and old.owner or '', ARGV[7]
  begin_writing()
  if rank and is_outranked(rank) then
    return 'a'
  elseif (not score and not rank) or (ARGV[6] ~= '' and owner ~= ARGV[6]) then
    return 'u'
  end
  redis.call('ZREM', schedules, id)
  redis.call('DEL', key)
  if rank then
    redis.call('HSET', key, 'revision', rank)
    expire(key, LANE_TTL)
  end
  if redis.call('ZCARD', schedules) == 0 then
    features = string.gsub(features or '', 's', '')
    redis.call('HSET', counters, 'uses', features)
  end
  return score and 'o' or 'u'
end

modes.retire = modes.remove

function modes.fire()
  if not old then
    return 'u'
  elseif old.held == '1' then
    return 'a'
  end
  local slot = microseconds(tonumber(ARGV[6]))
  local new = id .. old.mark .. '@' .. slot_text(slot)
  if redis.call('HEXISTS', tasks, new) == 1 then
    return 'd'
  end
  if old.group ~= '' then
    redis.call('ZCARD', groups)
  end
  redis.call('HSETNX', tasks, new, old.payload) -- the first write needs memory
  redis.call('HSET', key, 'last', new)
  push_scheduled({ { id = new, slot = slot, schedule = old } }, enqueued)
  return 'o'
end

function modes.hold()
  begin_writing()
  if not old or old.revision ~= ARGV[6] or is_outranked(ARGV[7]) then
    return 'u'
  end
  redis.call('HSET', key, 'revision', ARGV[7], 'held', '1')
  redis.call('ZADD', schedules, stamp(now + DRY), id)
  return 'o'
end

function modes.put()
  local fields = { 'held', '1' }
  for index, name in ipairs(KEPT) do
    fields[2 * index + 1], fields[2 * index + 2] = name, ARGV[5 + index]
    fields[name] = ARGV[5 + index]
  end
  if is_outranked(fields.revision) then
    return 'a'
  end
  set_times(fields, slots_in(fields.next), true)
  redis.call('PERSIST', key)
  mark_used()
  return 'o'
end

function modes.activate()
  if not old or old.revision ~= ARGV[6] then
    return 'u'
  end
  set_times({ 'held', '' }, slots_in(old.next))
  return 'o'
end

if mode == 'set' and ARGV[22] and number(generation, 0) ~= tonumber(ARGV[22]) then
  return refuse('RESHARDED')
end
local letter = modes[mode]()
hint()
return leave(letter)
