-- Schedules, which add their tasks when a claim or the script `schedule` looks at them. prelude.lua includes this file.
-- Only the script `schedule` declares their keys: it records the names for the others, so a queue without schedules does not
-- pay for them. Slots are times in microseconds.

local SLOTS = 20 -- most tasks that schedules add in one call
local LOW = 8    -- with fewer times left, the client is asked for more
local DRY = 5    -- s; until a schedule that ran out of times is looked at again

local schedule_names -- of the keys, once they were read

-- The key of all schedules, and what the keys of each begin with; nil if they are not recorded.
local function schedule_keys()
  schedule_names = schedule_names or redis.call('HMGET', counters, 'schedules', 'schedule')
  if schedule_names[1] and schedule_names[2] then
    return schedule_names[1], schedule_names[2] .. ':'
  end
end

-- When the pause in force ends; nil if there is none. Schedules do not fire before.
local function pause_end()
  if has_used('p') then
    local _, pause = restrictions()
    return pause or nil
  end
end

-- When the next schedule fires; nil if none does.
local function next_slot()
  local key = schedule_keys()
  local time = key and tonumber(redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  time = time and math.max(time, pause_end() or time)
  return time and time < math.huge and time or nil
end

-- A slot as Unix time, with decimals only if it has any.
local function slot_text(slot)
  return (string.gsub(stamp(slot / 1000000), '%.?0+$', ''))
end

-- The fields of a schedule; nil if it has no payload or the key has a wrong type.
local function read_schedule(key)
  local names = { 'payload', 'timeout', 'delay', 'max_dequeues', 'headers', 'expires_in', 'on_expiry', 'every', 'anchor',
    'next', 'missed', 'overlap', 'last', 'cron', 'tz', 'owner', 'revision', 'upto', 'group', 'level', 'mark', 'held' }
  local values, schedule = redis.pcall('HMGET', key, unpack(names)), {}
  if mistyped(values) or not values[1] then
    return nil
  end
  for index, name in ipairs(names) do
    schedule[name] = values[index] or ''
  end
  return schedule
end

local function slots_in(text)
  local slots = {}
  for word in string.gmatch(text, '%S+') do
    local time = number(word, nil)
    slots[#slots + 1] = time and microseconds(time)
  end
  return slots
end

local function slots_text(slots)
  local words = {}
  for index, slot in ipairs(slots) do
    words[index] = slot_text(slot)
  end
  return table.concat(words, ' ')
end

-- Split a schedule's times: at most `most` slots that are due, of which only the last one fires unless missed slots are made
-- up for; and the times that are left.
local function split_slots(schedule, most)
  local due, left, present_slot = {}, slots_in(schedule.next), microseconds(now)
  local all, every = schedule.missed == 'all' and schedule.overlap ~= '0', microseconds(number(schedule.every, 0))
  if every > 0 then
    local anchor, first = microseconds(number(schedule.anchor, 0)), left[1] or present_slot + every
    local last = anchor + math.floor((present_slot - anchor) / every) * every
    while first <= last and #due < most do
      due[#due + 1] = all and first or last
      first = due[#due] + every
    end
    return due, { first }
  end
  while left[1] and left[1] <= present_slot and (#due < most or not all) do
    due[all and #due + 1 or 1] = table.remove(left, 1)
  end
  return due, left
end

-- Plan a schedule's task for one slot, unless it is queued already or may not overlap with the last one.
local function plan_task(plan, id, schedule, slot)
  local last = schedule.last
  local overlaps = schedule.overlap == '0' and last ~= ''
    and (plan.queued[last] or (redis.call('HEXISTS', tasks, last) == 1 and not redis.call('ZSCORE', rejected, last)))
  if overlaps then
    return
  end
  local new = id .. schedule.mark .. '@' .. slot_text(slot)
  schedule.last = new
  if not plan.queued[new] and redis.call('HEXISTS', tasks, new) == 0 then
    plan.queued[new] = true
    plan.tasks[#plan.tasks + 1] = { id = new, slot = slot, schedule = schedule }
  end
end

-- Note that the queue uses a feature.
local function note_use(letter)
  if not has_used(letter) then
    features = (features or '') .. letter
    redis.call('HSET', counters, 'uses', features)
  end
end

-- Add the tasks that schedules have planned. Times in their options count from the slot. The caller places the groups.
local function push_scheduled(tasks_due, enqueued)
  for _, task_due in ipairs(tasks_due) do
    local id, slot, schedule = task_due.id, task_due.slot / 1000000, task_due.schedule
    local key, due = state_key(id), slot + number(schedule.delay, 0)
    local later = due > now
    local fields = { 'status', later and DELAYED or PENDING, 'timeout', schedule.timeout, 'enqueue_time', present }
    for _, name in ipairs({ 'max_dequeues', 'headers' }) do
      if schedule[name] ~= '' then
        fields[#fields + 1], fields[#fields + 2] = name, schedule[name]
        fields.special = true
      end
    end
    if fields.special then
      fields[#fields + 1], fields[#fields + 2] = 'revision', '1'
    end
    if schedule.expires_in ~= '' then
      fields[#fields + 1], fields[#fields + 2] = 'expires', stamp(slot + number(schedule.expires_in, 0))
      if schedule.on_expiry ~= '' then
        fields[#fields + 1], fields[#fields + 2] = 'on_expiry', schedule.on_expiry
      end
      note_use('e')
    end
    local line = schedule.group ~= '' and 'group' or schedule.level ~= '' and 'level'
    if line then
      fields[#fields + 1], fields[#fields + 2] = line, schedule[line]
      note_use(line == 'group' and 'g' or 'h')
    end
    redis.call('HSETNX', tasks, id, schedule.payload) -- consumers may add tasks, but not replace payloads
    redis.call('DEL', key)
    redis.call('HSET', key, unpack(fields))
    redis.pcall('PUBLISH', key, '1 ' .. fields[2])
    if later then
      redis.call('ZADD', delayed, stamp(due), id)
    elseif line then
      -- rarely
      join_line(id, schedule.group, schedule.level)
      -- end
    else
      redis.call('LPUSH', pending, id)
    end
  end
  add('enqueued', enqueued, #tasks_due)
end

-- Have the schedules that are due add their tasks. This is complete before the script goes on. Returns how many tasks there
-- are, and the schedules that need more times, or to be moved.
local function fire_due()
  local key, prefix = schedule_keys()
  local plan, fired, wanted, gone, scores = { tasks = {}, queued = {} }, {}, {}, {}, {}
  local ids = key and not pause_end() and redis.call('ZRANGEBYSCORE', key, '-inf', present, 'LIMIT', 0, SLOTS) or {}
  if #ids == 0 then
    return 0, wanted
  end
  redis.call('LLEN', pending) -- what the script reads later, so that it cannot fail then
  redis.call('ZCARD', delayed)
  redis.call('HLEN', tasks)
  redis.call('ZCARD', rejected)
  redis.call('ZCARD', missing)
  for _, id in ipairs(ids) do
    local schedule = read_schedule(prefix .. id)
    if not schedule then
      gone[#gone + 1] = id
    elseif schedule.held == '1' then -- until it has moved to another shard, which the client has to see to
      scores[#scores + 1], scores[#scores + 2] = stamp(now + DRY), id
      wanted[#wanted + 1] = id
    elseif #plan.tasks < SLOTS then
      if schedule.group ~= '' then
        redis.call('ZCARD', groups)
      end
      local due, left = split_slots(schedule, SLOTS - #plan.tasks)
      for _, slot in ipairs(due) do
        plan_task(plan, id, schedule, slot)
      end
      fired[#fired + 1] = { key = prefix .. id, next = slots_text(left), last = schedule.last }
      scores[#scores + 1], scores[#scores + 2] = left[1] and stamp(left[1] / 1000000) or stamp(now + DRY), id
      wanted[#wanted + 1] = schedule.every == '' and #left < LOW and id or nil
    end
  end
  local enqueued = redis.call('HMGET', counters, 'enqueued')[1]

  redis.call('DEL', lane) -- the bare prefix: never a key
  variadic('ZREM', key, gone)
  variadic('ZADD', key, scores)
  for _, each in ipairs(fired) do
    redis.call('HSET', each.key, 'next', each.next, 'last', each.last)
  end
  push_scheduled(plan.tasks, enqueued)
  if touched then
    -- rarely
    place_touched()
    -- end
  end
  return #plan.tasks, wanted
end
