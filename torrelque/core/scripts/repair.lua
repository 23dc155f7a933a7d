-- Repair one violation that an audit found, if it is still there. Safe to repeat; it loses no task.
-- KEYS: pending dequeueing undequeued working delayed tasks task wake timer counters epoch rejected missing workers schedules schedule groups lane
-- ARGV: the kind of violation, its task, lane, key or group, and how long to keep a state without a task (ms); if a group
--   counts what it should not, then also working or rejected, and the group; if it does not count a claim, the word claimed
-- returns: 1 if something was changed

totals()
look()
redis.call('LLEN', dequeueing)
redis.call('SCARD', undequeued)
redis.call('ZCARD', rejected)
redis.call('ZCARD', missing)
local planned = redis.call('ZCARD', schedules)
local fault, id, ttl = ARGV[1], ARGV[2], ARGV[3]
local payload = redis.call('HEXISTS', tasks, id) == 1
local kind = redis.call('TYPE', state_key(id)).ok
local lasts = redis.call('PTTL', state_key(id)) == -1
local deadline, due, dead = redis.call('ZSCORE', working, id), redis.call('ZSCORE', delayed, id),
  redis.call('ZSCORE', rejected, id)
local places = { pending = pending, dequeueing = dequeueing, undequeued = undequeued, working = working,
  delayed = delayed, tasks = tasks, wake = wake, counters = counters, epoch = epoch, rejected = rejected,
  schedules = schedules }
local WELL_FORMED = '^[%d-]+ [%d-]+ [%d-]+ [%d-]+$' -- limits
for _, name in ipairs({ 'blocked', 'held', 'idle', 'limits', 'arrivals' }) do
  places['groups:' .. name] = groups .. ':' .. name
end
places['groups'], places['pending:high'], places['pending:low'] = groups, pending .. ':high', pending .. ':low'
local repairs = {}
local own, own_group = line_of(id) -- the list in which the task waits, if it does, and its group if it has one

-- How often a task is in a list.
local function occurrences(list)
  local found = redis.pcall('LPOS', list, id, 'COUNT', 0)
  return mistyped(found) and 0 or #found
end

-- How often the task is in pending, and in its own list if that is another one.
local function count_waiting()
  return occurrences(pending), own ~= pending and occurrences(own) or 0
end

local function touch_own_group()
  if own_group and has_used('g') then
    touch(own_group)
  end
end

-- An id in a collection without a payload, which cannot be delivered. It is set aside, as a claim does.
function repairs.ghost()
  if payload then
    return false
  end
  if kind == 'hash' and lasts then
    expire(state_key(id), ttl)
  end
  leave_groups({ id })
  release_groups({ id })
  local removed = redis.call('LREM', pending, 0, id) + redis.call('LREM', dequeueing, 0, id)
    + redis.call('ZREM', working, id) + redis.call('ZREM', delayed, id) + redis.call('ZREM', rejected, id)
  local apart = own ~= pending and redis.pcall('LREM', own, 0, id)
  removed = removed + (type(apart) == 'number' and apart or 0)
  set_aside(removed > 0 and { id } or {})
  return removed > 0
end

-- An id that waits twice, or waits and is elsewhere, so that claims would skip it. The first one in its own list stays.
function repairs.twice()
  local kept = (deadline or due or dead) and 0 or 1
  local waits, waits_apart = count_waiting()
  local surplus, surplus_apart = waits - (waits_apart > 0 and 0 or kept), waits_apart - kept
  if payload and surplus > 0 then
    redis.call('LREM', pending, surplus, id)
  end
  if payload and surplus_apart > 0 then
    redis.call('LREM', own, surplus_apart, id)
  end
  touch_own_group()
  return payload and (surplus > 0 or surplus_apart > 0)
end

-- A task in no collection, which would never be delivered.
function repairs.lost()
  local state = payload and (kind == 'hash' or kind == 'none') and read_state(id)
  local waits, waits_apart = count_waiting()
  if not state or deadline or due or dead or waits + waits_apart > 0 or redis.call('LPOS', dequeueing, id) then
    return false
  end
  leave_groups({ id })
  redis.call('HDEL', state.key, 'claim')
  transition(state, PENDING)
  line_up({ id }, 'back')
  redis.call('ZREM', missing, id)
  return true
end

-- A claim without a finite deadline.
function repairs.deadline()
  local state = payload and deadline and string.find(deadline, 'inf') and read_state(id)
  if not state then
    return false
  end
  local claim, text = state.claim, stamp(now + state.timeout)
  redis.call('ZADD', working, text, id)
  if claim and claim.count == state.dequeue_count then -- otherwise 0.9 has claimed it since
    move_claim(state, stamp(claim.deadline), text)
  end
  return true
end

-- A state that would expire before its task ends.
function repairs.expiring()
  return payload and redis.call('PERSIST', state_key(id)) == 1
end

function repairs.result()
  if payload or kind ~= 'hash' or not lasts or redis.call('HEXISTS', state_key(id), 'result') == 0 then
    return false
  end
  expire(state_key(id), ttl)
  return true
end

function repairs.lane()
  if redis.call('PTTL', lane .. ':' .. id) ~= -1 then
    return false
  end
  expire(lane .. ':' .. id, LANE_TTL)
  return true
end

function repairs.timer()
  if redis.call('PTTL', timer) ~= -1 then
    return false
  end
  expire(timer, HORIZON * 1000 + GRACE)
  return true
end

function repairs.workers()
  if redis.call('PTTL', workers) ~= -1 then
    return false
  end
  expire(workers, HORIZON * 1000)
  return true
end

-- A key that would expire with its content.
function repairs.key()
  return places[id] and redis.call('PERSIST', places[id]) == 1 or false
end

-- A pause or limits that are ignored, because their letter is missing; or a letter without a record, or a malformed record.
function repairs.flow()
  local uses, till, limits = unpack(redis.call('HMGET', counters, 'uses', 'paused', 'limits'))
  local is_kept = { p = till == 'inf' or number(till, nil) ~= nil, l = string.find(limits or '', WELL_FORMED) ~= nil }
  local records, letters, changed = { p = till or '', l = limits or '' }, '', false
  for _, letter in ipairs({ 'p', 'l' }) do
    local has_letter = string.find(uses or '', letter, 1, true) ~= nil
    changed = changed or has_letter ~= is_kept[letter] or (not is_kept[letter] and records[letter] ~= '')
    letters = letters .. (is_kept[letter] and letter or '')
  end
  if changed then
    features = string.gsub(uses or '', '[pl]', '') .. letters
    redis.call('HSET', counters, 'uses', features, 'paused', is_kept.p and till or '', 'limits', is_kept.l and limits or '')
  end
  return changed
end

-- A schedule that is listed without a payload, or the reverse, or that expires; and with no id, that the queue does not know
-- that it has schedules, or has none.
function repairs.schedule()
  if id == '' then
    local uses = redis.call('HMGET', counters, 'uses')[1]
    features = string.gsub(uses or '', 's', '') .. (planned > 0 and 's' or '')
    redis.call('HSET', counters, 'uses', features, 'schedules', schedules, 'schedule', schedule)
    return true
  end
  local key, listed = schedule .. ':' .. id, redis.call('ZSCORE', schedules, id)
  local found = redis.call('TYPE', key).ok == 'hash' and read_schedule(key)
  if not found then
    return redis.call('ZREM', schedules, id) == 1
  end
  local kept = redis.call('PERSIST', key) == 1
  if not listed then
    local slots = slots_in(found.next)
    redis.call('ZADD', schedules, slots[1] and stamp(slots[1] / 1000000) or present, id)
  end
  return kept or not listed
end

-- A group that is in no index though tasks wait, or the reverse; that waits for nothing; that counts what is no claim or dead
-- letter of its own; or that does not count a claim.
function repairs.group()
  local kind, name = ARGV[4], ARGV[5]
  if not has_used('g') then
    return false
  elseif not kind then
    local count, wanted, stuck = index_faults(id)
    if count == wanted and stuck == 0 then
      return false
    end
    touch(id)
  elseif kind == 'claimed' then
    if not deadline or not is_uncounted(id) then
      return false
    end
    redis.pcall('SADD', group_key('working', own_group), id)
    touch(own_group)
  else
    if not is_stray(kind, name, id) then
      return false
    end
    redis.pcall('SREM', group_key(kind, name), id)
    touch(name)
  end
  return true
end

-- A task whose expiry, whose request to end, whose group or whose priority no script looks at.
function repairs.ignored()
  local letters = payload and kind == 'hash' and unnoted(id) or ''
  if letters ~= '' then
    features = (features or '') .. letters
    redis.call('HSET', counters, 'uses', features)
    touch_own_group()
  end
  return letters ~= ''
end

-- A key that is left over though there are no tasks.
function repairs.leftover()
  if redis.call('HLEN', tasks) + depth + redis.call('LLEN', dequeueing) + redis.call('ZCARD', working)
    + redis.call('ZCARD', delayed) + redis.call('ZCARD', rejected) > 0 or (id ~= 'wake' and id ~= 'undequeued') then
    return false
  end
  return redis.call('DEL', places[id]) == 1
end

begin_writing()
local changed = repairs[fault]()
if fault ~= 'leftover' then
  hint()
end
return changed and 1 or 0
