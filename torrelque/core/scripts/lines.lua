-- Groups and levels. In a queue that has them, each task waits in the list of its group or level: a line. The groups whose
-- tasks consumers may take are in `groups`; those at their limit of concurrency are in `blocked`, those that may go on at a
-- known time are in `held`. prelude.lua includes this file.
--
-- Where a group is follows from facts alone (`place_group`), so every script that may have changed one of them touches the group,
-- and places it before it ends. Nothing here fails after a script's first write: verbs look at the indexes first (`look`),
-- and the keys of a single group, which may have a wrong type, are used with pcall.

-- The groups to be placed again.
local touched
-- Name -> limits of a group, once they were read.
local groups_read
-- The time of the lines, once it was read.
local virtual
-- Whether groups have to be placed again, because the default limits changed.
local rechecking

-- The limits in a record, after its revision.
local GROUP_WORDS = '^%S+ (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$'

local function has_lines()
  return features and string.find(features, '[gh]')
end

local function group_key(kind, name)
  return groups .. ':' .. kind .. ':' .. name
end

-- `was`: where it is, if that is known: `blocked`, or `nowhere`, because none of its tasks waited.
local function touch(name, was)
  touched = touched or {}
  if touched[name] == nil then
    touched[#touched + 1] = name
    touched[name] = was or 'anywhere'
  elseif touched[name] ~= was then
    touched[name] = 'anywhere'
  end
end

-- The size of a collection; 0 if its key has a wrong type.
local function size_of(command, key)
  local size = redis.pcall(command, key)
  return type(size) == 'number' and size or 0
end

local function exactly(tag)
  return string.format('%.17g', tag)
end

-- The list of a group or of a level, and the group if there is one.
local function line_for(name, level)
  if name and name ~= '' then
    return group_key('pending', name), name
  end
  return (level == 'high' or level == 'low') and pending .. ':' .. level or pending
end

-- The list in which a task waits, and its group if it has one.
local function line_of(id)
  local values = redis.pcall('HMGET', state_key(id), 'group', 'level')
  return line_for(values[1], values[2])
end

-- The words of a group's limits. A word that its own record lacks is that of the default.
local function group_words(own, default)
  if not own or not default then
    return string.match(own or default or '', GROUP_WORDS)
  end
  local words, common = { string.match(own, GROUP_WORDS) }, { string.match(default, GROUP_WORDS) }
  for _, part in ipairs({ { 1, 1 }, { 2, 4 }, { 5, 5 }, { 6, 6 }, { 7, 7 } }) do
    if (words[part[1]] or '-') == '-' then
      for index = part[1], part[2] do
        words[index] = common[index] or '-'
      end
    end
  end
  return unpack(words)
end

local function parse_group(name, own, default)
  local slots, count, period, burst, weight, ordered, dead = group_words(own, default)
  local group = { name = name, slots = number(slots, nil), cost = 1 / math.max(1, number(weight, 1)),
    ordered = ordered == '1', holds = dead == 'hold', arrival = 0, hold = 0 }
  set_rate(group, count, period, number(burst, nil))
  if group.ordered then
    group.slots = math.min(group.slots or 1, 1) -- 0 stays 0: a paused group
  end
  return group
end

local function group_of(name)
  groups_read = groups_read or {}
  if not groups_read[name] then
    local values = redis.pcall('HMGET', groups .. ':limits', name, '*')
    groups_read[name] = parse_group(name, values[1], values[2])
  end
  return groups_read[name]
end

-- Read when the rate allows the group's next delivery, and until when a retry holds the group (`till`). A task that is retried
-- in order holds it only while it is at the front; `hold` is until when the group is held now.
local function read_arrival(group)
  local text = redis.pcall('HMGET', groups .. ':arrivals', group.name)[1]
  local arrival, till, id = string.match(text or '', '^(%d+) (%d+) (.*)$')
  group.recorded, group.arrival, group.till, group.id = arrival, number(arrival, 0), number(till, 0), id or ''
  group.hold = group.till
  if group.till > 0 and group.id ~= '' and redis.pcall('LINDEX', group_key('pending', group.name), -1) ~= group.id then
    group.hold = 0
  end
end

local function write_arrival(group)
  redis.pcall('HSET', groups .. ':arrivals', group.name, whole(group.arrival) .. ' ' .. whole(group.till) .. ' ' .. group.id)
end

-- The index in which a group belongs by its facts, with its score there; nil if none of its tasks waits.
local function index_of(group)
  if group.waiting == 0 then
    return nil
  elseif group.holds and size_of('SCARD', group_key('rejected', group.name)) > 0 then
    return 'held', 'inf'
  end
  local count, time = allowed_by(group, group.claimed)
  time = math.max(time and microseconds(time) or 0, group.hold)
  if time > microseconds(now) then
    return 'held', stamp(time / 1000000)
  end
  return count > 0 and 'ready' or 'blocked', present
end

local function read_turn()
  virtual = virtual or number(string.match(redis.call('HMGET', counters, 'turn')[1] or '', '^%S+'), 0)
  return virtual
end

-- A group comes back to those that can be served: where it would be if it had never left, but not before the turn.
local function enter_groups(name)
  local tag = redis.pcall('ZSCORE', groups .. ':idle', name)
  tag = type(tag) == 'string' and tag
  redis.pcall('ZADD', groups, exactly(math.max(number(tag, 0), read_turn())), name)
  if tag then
    redis.pcall('ZREM', groups .. ':idle', name)
  end
end

-- Keep the finish tag of a group that cannot be served any more, if it is ahead of the turn.
local function keep_tag(name, tag)
  if tag > read_turn() then
    redis.pcall('ZADD', groups .. ':idle', exactly(tag), name)
  end
end

-- Read where a group belongs.
local function read_index(group, waiting)
  group.waiting = waiting or size_of('LLEN', group_key('pending', group.name))
  group.claimed = group.slots and size_of('SCARD', group_key('working', group.name)) or 0
  read_arrival(group)
  return index_of(group)
end

-- Put a group into the index where it belongs. Returns whether it can be served.
local function place_group(name, was)
  local group = group_of(name)
  local index, score = read_index(group, was == 'nowhere' and 1 or nil)
  local tag = was == 'anywhere' and redis.pcall('ZSCORE', groups, name)
  tag = type(tag) == 'string' and tag
  if index ~= 'blocked' and was ~= 'nowhere' then
    redis.pcall('ZREM', groups .. ':blocked', name)
  end
  if index ~= 'held' and was == 'anywhere' then
    redis.pcall('ZREM', groups .. ':held', name)
  end
  if index == 'ready' then
    if not tag then
      enter_groups(name)
    end
  else
    if tag then
      redis.pcall('ZREM', groups, name)
      keep_tag(name, tonumber(tag))
    end
    if index == 'blocked' then
      redis.pcall('ZADD', groups .. ':blocked', 'NX', score, name)
    elseif index then
      redis.pcall('ZADD', groups .. ':held', score, name)
    end
  end
  if group.recorded and math.max(group.arrival, group.till) <= microseconds(now) then
    redis.pcall('HDEL', groups .. ':arrivals', name)
  end
  return index == 'ready'
end

-- Returns how many of the groups can be served.
local function place_touched()
  local count = 0
  for _, name in ipairs(touched or {}) do
    count = count + (place_group(name, touched[name]) and 1 or 0)
  end
  touched = nil
  return count
end

-- Read the indexes, so that a key of a wrong type is an error before any write. `all`: also before the first use of groups.
local function look_at_lines(all)
  for _, level in ipairs(has_used('h') and { ':high', ':low' } or {}) do
    redis.call('LLEN', pending .. level)
  end
  if all or has_used('g') then
    for _, key in ipairs({ groups, groups .. ':blocked', groups .. ':held', groups .. ':idle' }) do
      redis.call('ZCARD', key)
    end
    redis.call('HLEN', groups .. ':limits')
    redis.call('HLEN', groups .. ':arrivals')
  end
end

-- Users without permission to place groups are stopped here, before any write.
local function look_for_permission()
  if has_used('g') then
    redis.call('ZSCORE', groups, '') -- never a group
    redis.call('ZREM', groups, '')
  end
end

-- The lines of which consumers may take a task: all tasks without a group, and each group.
local function count_lines()
  local left = size_of('LLEN', pending)
  if has_used('h') then
    left = left + size_of('LLEN', pending .. ':high') + size_of('LLEN', pending .. ':low')
  end
  if has_used('g') then
    left = left + size_of('ZCARD', groups) + (rechecking and 1 or 0)
  end
  return left
end

-- After the default limits changed, the counters say which index is next to be placed again, and from which cursor on. Each
-- claim and tick takes a step.
local function recheck_some(recheck)
  local index, cursor = string.match(recheck, '^(%a+) (%d+)$')
  if (index ~= 'blocked' and index ~= 'held') or #cursor > 18 then
    redis.call('HSET', counters, 'recheck', '') -- anybody may have written it
    return
  end
  local part = redis.call('ZSCAN', groups .. ':' .. index, cursor, 'COUNT', 100)
  for at = 1, #part[2], 2 do
    touch(part[2][at])
  end
  rechecking = part[1] ~= '0' or index == 'blocked'
  redis.call('HSET', counters, 'recheck', not rechecking and '' or part[1] == '0' and 'held 0' or index .. ' ' .. part[1])
end

-- When the next held group may go on, if it is known.
local function next_held()
  local time = has_used('g') and tonumber(redis.pcall('ZRANGE', groups .. ':held', 0, 0, 'WITHSCORES')[2])
  return time and time < math.huge and time or nil
end

-- Let a finished task leave its group, which has to be placed again if it was at its limit.
local function leave_group(name, id)
  redis.pcall('SREM', group_key('working', name), id)
  if type(redis.pcall('ZSCORE', groups .. ':blocked', name)) == 'string' then
    touch(name, 'blocked')
  end
end

-- Let the tasks of claims that end leave their groups.
local function leave_groups(ids)
  for _, id in ipairs(has_used('g') and ids or {}) do
    local _, name = line_of(id)
    if name then
      redis.pcall('SREM', group_key('working', name), id)
      touch(name)
    end
  end
end

-- Dead letters hold their groups, if the groups' limits say so.
local function hold_group(id)
  local _, name = line_of(id)
  if name and group_of(name).holds then
    redis.pcall('SADD', group_key('rejected', name), id)
    touch(name)
  end
end

-- Dead letters are about to go: those that held their groups hold them no more. Returns these.
local function release_groups(ids)
  local holding = {}
  for _, id in ipairs(has_used('g') and ids or {}) do
    local _, name = line_of(id)
    if name and redis.pcall('SREM', group_key('rejected', name), id) == 1 then
      holding[id] = true
      touch(name)
    end
  end
  return holding
end

-- Take deliveries back that were none, for the rates of their groups.
local function uncount_in_groups(items)
  local by_name, names = {}, {}
  for _, item in ipairs(has_used('g') and items or {}) do
    local _, name = line_of(item.id)
    if name and not by_name[name] then
      by_name[name], names[#names + 1] = {}, name
    end
    if name then
      table.insert(by_name[name], item)
    end
  end
  for _, name in ipairs(names) do
    local group = group_of(name)
    if group.interval then
      read_arrival(group)
      local since = 0
      for _, text in ipairs(redis.pcall('HMGET', groups .. ':limits', name, '*')) do
        since = math.max(since, 1000 * (number(string.match(text or '', '^%d+'), 0) + 1))
      end
      local spared = spare(group, by_name[name], since)
      if spared > 0 then
        group.arrival = microseconds(now) + math.max(0, ahead(group) - spared)
        write_arrival(group)
      end
    end
  end
end

-- Hold a group until a time. `id`: only while this task is at the front.
local function hold_until(name, time, id)
  local group = group_of(name)
  read_arrival(group)
  local is_void = id ~= '' and redis.pcall('LINDEX', group_key('pending', name), -1) ~= id
  if not is_void and microseconds(time) > group.till then
    group.till, group.id = microseconds(time), id
    write_arrival(group)
  end
  touch(name)
end

-- Push ids to a line. If its list has a wrong type, they go to pending, where a claim finds them.
local function push_to(command, key, ids)
  for first = 1, #ids, CHUNK do
    local last = math.min(first + CHUNK - 1, #ids)
    local answer = redis.pcall(command, key, unpack(ids, first, last))
    if type(answer) == 'table' and answer.err then
      redis.call(command, pending, unpack(ids, first, last))
    end
  end
end

-- Add a new task to the back of its line.
local function join_line(id, group, level)
  local key, name = line_for(group, level)
  if name and redis.pcall('LLEN', key) == 0 then
    touch(name, 'nowhere')
  end
  push_to('LPUSH', key, { id })
end

-- Add tasks to their lines: at the `back`, at the `front` in the order given, or where they `return` to, which is the front of
-- an ordered group and the back of others.
local function join_lines(ids, where)
  local parts, by_key = {}, {}
  for _, id in ipairs(ids) do
    local key, name = line_of(id)
    local in_front = where == 'front' or (where == 'return' and name and group_of(name).ordered)
    local slot = (in_front and 'RPUSH ' or 'LPUSH ') .. key
    local part = by_key[slot]
    if not part then
      part = { key = key, in_front = in_front }
      by_key[slot] = part
      parts[#parts + 1] = part
    end
    part[#part + 1] = id
    if name then
      touch(name)
    end
  end
  for _, part in ipairs(parts) do
    local command, count = part.in_front and 'RPUSH' or 'LPUSH', #part
    for index = 1, part.in_front and math.floor(count / 2) or 0 do
      part[index], part[count + 1 - index] = part[count + 1 - index], part[index]
    end
    push_to(command, part.key, part)
  end
end

-- The tasks whose claims became stale and those that are due return to their lines, and groups that were held until now go on.
local function return_to_lines(plan)
  local due = {}
  for index = plan.stale_count + 1, #plan.pushed do
    due[#due + 1] = plan.pushed[index]
  end
  join_lines({ unpack(plan.pushed, 1, plan.stale_count) }, 'return')
  join_lines(due, 'back')
  for _, name in ipairs(plan.held) do
    touch(name)
  end
end
