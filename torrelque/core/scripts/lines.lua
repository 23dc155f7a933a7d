-- Groups and levels. In a queue that has them, each task waits in the list of its group or level: a line. The groups whose
-- tasks consumers may take are in `groups`; those at their limit of concurrency are in `blocked`, those that may go on at a
-- known time are in `held`. prelude.lua includes this file.
--
-- Where a group is follows from facts alone (`place_group`), so every script that may have changed one of them touches the group,
-- and places it before it ends. Nothing here fails after a script's first write: verbs look at the indexes first (`look`),
-- and the keys of a single group, which may have a wrong type, are used with pcall.

-- The groups to be placed again.
local touched
-- Name -> limits of a group, once they were read. Groups without limits of their own share those of the default (`common`), until
-- their arrival is read.
local groups_read
local common
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

-- What a hash or a sorted set has for some names; nothing if its key has a wrong type.
local function look_up(command, key, names)
  local values = redis.pcall(command, key, unpack(names))
  return values.err and {} or values
end

-- Run a command unless there is nothing to do. It does nothing if the key has a wrong type.
local function try_each(command, key, values)
  if #values > 0 then
    redis.pcall(command, key, unpack(values))
  end
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

-- `is_limited`: whether consumers may have to wait for a group.
local function parse_group(own, default)
  local slots, count, period, burst, weight, ordered, dead = group_words(own, default)
  local group = { slots = number(slots, nil), cost = 1 / math.max(1, number(weight, 1)), ordered = ordered == '1',
    holds = dead == 'hold', arrival = 0, till = 0, hold = 0 }
  set_rate(group, count, period, number(burst, nil))
  if group.ordered then
    group.slots = math.min(group.slots or 1, 1) -- 0 stays 0: a paused group
  end
  group.is_limited = group.slots or group.interval or group.holds
  return group
end

-- Read the limits of some groups.
local function read_groups(names)
  groups_read = groups_read or {}
  local wanted = {}
  for _, name in ipairs(names) do
    if not groups_read[name] then
      wanted[#wanted + 1] = name
    end
  end
  local count = #wanted
  wanted[count + 1] = '*'
  local values = count > 0 and look_up('HMGET', groups .. ':limits', wanted)
  for index = 1, count do
    local own, default = values[index], values[count + 1]
    common = common or parse_group(false, default)
    groups_read[wanted[index]] = own and parse_group(own, default) or common
  end
end

local function group_of(name)
  if not (groups_read and groups_read[name]) then
    read_groups({ name })
  end
  return groups_read[name]
end

-- Read when the rate allows the group's next delivery, and until when a retry holds the group (`till`). A task that is retried
-- in order holds it only while it is at the front; `hold` is until when the group is held now.
local function parse_arrival(name, text)
  local limits = group_of(name)
  local arrival, till, id = string.match(text or '', '^(%d+) (%d+) (.*)$')
  local group = setmetatable({ recorded = arrival, arrival = number(arrival, 0), till = number(till, 0), id = id or '' },
    { __index = limits.limits or limits })
  group.limits = limits.limits or limits
  group.hold = group.till
  if group.till > 0 and group.id ~= '' and redis.pcall('LINDEX', group_key('pending', name), -1) ~= group.id then
    group.hold = 0
  end
  groups_read[name] = group
  return group
end

local function read_arrival(name)
  return parse_arrival(name, look_up('HMGET', groups .. ':arrivals', { name })[1])
end

local function write_arrival(name, group)
  redis.pcall('HSET', groups .. ':arrivals', name, whole(group.arrival) .. ' ' .. whole(group.till) .. ' ' .. group.id)
end

-- Forget times that are over, of groups that may never have tasks again. Called after `written` times were recorded: as it looks
-- at twice as many, at most about half of those that are kept are over.
local function forget_arrivals(written)
  local some, over = redis.pcall('HRANDFIELD', groups .. ':arrivals', 2 * written + 2, 'WITHVALUES'), {}
  for at = 1, #some, 2 do
    local arrival, till = string.match(some[at + 1], '^(%d+) (%d+) ')
    if arrival and math.max(number(arrival, 0), number(till, 0)) <= microseconds(now) then
      over[#over + 1] = some[at]
    end
  end
  try_each('HDEL', groups .. ':arrivals', over)
end

-- The index in which a group belongs by its facts, with its score there; nil if none of its tasks waits.
local function index_of(name, group, waiting, claimed)
  if waiting == 0 then
    return nil
  elseif not group.is_limited and group.hold == 0 then
    return 'ready'
  elseif group.holds and size_of('SCARD', group_key('rejected', name)) > 0 then
    return 'held', 'inf'
  end
  local count, time = allowed_by(group, claimed)
  time = math.max(time and microseconds(time) or 0, group.hold)
  if time > microseconds(now) then
    return 'held', stamp(time / 1000000)
  end
  return count > 0 and 'ready' or 'blocked', present
end

-- If the counters were lost, the time is that of the first group: new ones must not pass those with higher tags for ever.
local function read_turn()
  if not virtual then
    local turn = string.match(redis.call('HMGET', counters, 'turn')[1] or '', '^%S+')
    virtual = number(turn or redis.pcall('ZRANGE', groups, 0, 0, 'WITHSCORES')[2], 0)
  end
  return virtual
end

-- Groups come back to those that can be served: where they would be if they had never left, but not before the turn.
local function enter_groups(names)
  local tags = look_up('ZMSCORE', groups .. ':idle', names)
  local scores, known = {}, {}
  for index, name in ipairs(names) do
    local tag = tags[index]
    scores[2 * index - 1], scores[2 * index] = exactly(math.max(number(tag, 0), read_turn())), name
    if tag then
      known[#known + 1] = name
    end
  end
  try_each('ZADD', groups, scores)
  try_each('ZREM', groups .. ':idle', known)
end

-- Groups that can be served no more leave. Keep the finish tags of those that are ahead of the turn.
local function leave_index(names, tags)
  local kept = {}
  for index, name in ipairs(names) do
    if tags[index] > read_turn() then
      kept[#kept + 1], kept[#kept + 2] = exactly(tags[index]), name
    end
  end
  try_each('ZREM', groups, names)
  try_each('ZADD', groups .. ':idle', kept)
end

-- Read where a group belongs. `waiting`: whether its tasks wait, if that is known. `claimed`: whether any is claimed.
local function read_index(name, waiting, claimed)
  local group = group_of(name)
  return index_of(name, group, waiting and 1 or size_of('LLEN', group_key('pending', name)),
    claimed and group.slots and size_of('SCARD', group_key('working', name)) or 0)
end

-- Whether tasks of any of these groups are claimed and limited.
local function any_claimed(names)
  local keys = {}
  for _, name in ipairs(names) do
    if group_of(name).slots then
      keys[#keys + 1] = group_key('working', name)
    end
  end
  return #keys > 0 and redis.call('EXISTS', unpack(keys)) > 0
end

-- Put at most 500 groups into the indexes where they belong. Returns how many of them can be served.
local function place_some(names)
  read_groups(names)
  local arrivals, claimed, scores, tags, count = look_up('HMGET', groups .. ':arrivals', names), any_claimed(names), {}, {}, 0
  local anywhere, entering, leaving, left, free, going, over = {}, {}, {}, {}, {}, {}, {}
  local blocked, later = { 'NX' }, {}
  for _, name in ipairs(names) do
    if touched[name] == 'anywhere' then
      anywhere[#anywhere + 1] = name
    end
  end
  if #anywhere > 0 then
    scores = look_up('ZMSCORE', groups, anywhere)
    for at, name in ipairs(anywhere) do
      tags[name] = scores[at]
    end
  end
  for at, name in ipairs(names) do
    local was, tag, group = touched[name], tags[name], groups_read[name]
    if was == 'nowhere' and not (arrivals[at] or group.is_limited or group.recorded) then
      entering[#entering + 1] = name
    else
      group = (arrivals[at] or group.recorded) and parse_arrival(name, arrivals[at]) or group
      local index, score = read_index(name, was == 'nowhere', claimed)
      if index ~= 'blocked' and was ~= 'nowhere' then
        free[#free + 1] = name
      end
      if index ~= 'held' and was == 'anywhere' then
        going[#going + 1] = name
      end
      if index == 'ready' and tag then
        count = count + 1
      elseif index == 'ready' then
        entering[#entering + 1] = name
      elseif tag then
        leaving[#leaving + 1], left[#left + 1] = name, tonumber(tag)
      end
      local list = index == 'blocked' and blocked or index == 'held' and later
      if list then
        list[#list + 1], list[#list + 2] = score, name
      end
      if group.recorded and math.max(group.arrival, group.till) <= microseconds(now) then
        over[#over + 1] = name
      end
    end
  end
  try_each('ZREM', groups .. ':blocked', free)
  try_each('ZREM', groups .. ':held', going)
  if #entering > 0 then
    enter_groups(entering)
  end
  if #leaving > 0 then
    leave_index(leaving, left)
  end
  if #blocked > 1 then
    try_each('ZADD', groups .. ':blocked', blocked)
  end
  try_each('ZADD', groups .. ':held', later)
  try_each('HDEL', groups .. ':arrivals', over)
  return count + #entering
end

-- Returns how many of the groups can be served.
local function place_touched()
  local names, count = touched or {}, 0
  for first = 1, #names, 500 do
    count = count + place_some({ unpack(names, first, math.min(first + 499, #names)) })
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

-- The letters of lines that have tasks and that the queue does not know of, because its counters were lost.
local function forgotten_lines()
  local letters = ''
  if not has_used('g') and size_of('ZCARD', groups) + size_of('ZCARD', groups .. ':blocked')
    + size_of('ZCARD', groups .. ':held') > 0 then
    letters = 'g'
  end
  if not has_used('h') and size_of('LLEN', pending .. ':high') + size_of('LLEN', pending .. ':low') > 0 then
    letters = letters .. 'h'
  end
  return letters
end

-- When the next held group may go on, if it is known.
local function next_held()
  local time = has_used('g') and tonumber(redis.pcall('ZRANGE', groups .. ':held', 0, 0, 'WITHSCORES')[2])
  return time and time < math.huge and time or nil
end

-- Let finished tasks leave their groups, which have to be placed again if they were at their limit. `names`: the group of each
-- task, if it has one.
local function leave_finished(ids, names)
  local left, seen = {}, {}
  for index, id in ipairs(ids) do
    local name = names[index]
    if name then
      redis.pcall('SREM', group_key('working', name), id)
      if not seen[name] then
        seen[name] = true
        left[#left + 1] = name
      end
    end
  end
  local scores = #left > 0 and look_up('ZMSCORE', groups .. ':blocked', left) or {}
  for index, name in ipairs(left) do
    if scores[index] then
      touch(name, 'blocked')
    end
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
    if group_of(name).interval then
      local group = read_arrival(name)
      local since = 0
      for _, text in ipairs(redis.pcall('HMGET', groups .. ':limits', name, '*')) do
        since = math.max(since, 1000 * (number(string.match(text or '', '^%d+'), 0) + 1))
      end
      local spared = spare(group, by_name[name], since)
      if spared > 0 then
        group.arrival = microseconds(now) + math.max(0, ahead(group) - spared)
        write_arrival(name, group)
      end
    end
  end
end

-- Hold a group until a time. `id`: only while this task is at the front. If two tasks hold the group, which were claimed before it
-- became ordered, it waits for the later time, whichever is in front.
local function hold_until(name, time, id)
  local group = read_arrival(name)
  local till, is_shared = microseconds(time), false
  if id ~= '' then
    local other = redis.pcall('HMGET', state_key(group.id), 'status', 'group')
    local is_waiting = group.id == '' or (group.id ~= id and other[1] == PENDING and other[2] == name)
    is_shared = redis.pcall('LINDEX', group_key('pending', name), -1) ~= id
    if is_waiting and group.till > microseconds(now) then
      till, is_shared = math.max(till, group.till), true
    end
  end
  if is_shared or till > group.till then
    group.till, group.id = math.max(till, group.till), is_shared and '' or id
    write_arrival(name, group)
    forget_arrivals(1)
  end
  touch(name)
end

-- Push ids to a line. If its list has a wrong type, they go to pending, where a claim finds them. Returns whether it was empty.
local function push_to(command, key, ids)
  local size
  for first = 1, #ids, CHUNK do
    local last = math.min(first + CHUNK - 1, #ids)
    size = redis.pcall(command, key, unpack(ids, first, last))
    if type(size) ~= 'number' then
      redis.call(command, pending, unpack(ids, first, last))
    end
  end
  return size == #ids
end

-- Add a new task to the back of its line.
local function join_line(id, group, level)
  local key, name = line_for(group, level)
  if push_to('LPUSH', key, { id }) and name then
    touch(name, 'nowhere')
  end
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
