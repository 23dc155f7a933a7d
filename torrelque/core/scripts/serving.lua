-- Serving: which line a claim takes its next task from. prelude.lua includes this file.

-- A claim takes from the line whose turn it is: the one with the least tag. That costs the line 1 / weight, and the time of
-- the lines moves on to the tag (start-time fair queueing). A line has `ids`, those read so far from the front of its list (the
-- last is the front), `at`, how many of them were looked at, and `left`, how many more tasks it may give. `service` is what a
-- claim knows of all lines: `queue`, from `first` to `last` in order of their turns; `seen`, how many names were read from
-- `groups`, of at most `most`; `complete`, whether these are all, and the tag of the last one, `bound`.

-- Whether a list has another id. Reads some, if necessary.
local function has_next(list, wanted)
  local ids = list.ids
  if list.at == #ids and not list.ended then
    local part = (list.name and redis.pcall or redis.call)('LRANGE', list.key, -(list.at + wanted), -(list.at + 1))
    if part.err then
      list.broken = mistyped(part)
      part = {}
    end
    list.ended = #part < wanted
    for index = 1, #ids do
      part[#part + 1] = ids[index]
    end
    list.ids, ids = part, part
  end
  return list.at < #ids
end

-- How many ids are left in a list.
local function rest_of(list)
  return (list.ended and #list.ids or size_of('LLEN', list.key)) - list.at
end

-- Put a line into the queue: behind those with the same tag, but before those of them that had their turn.
local function queue_up(service, line)
  local queue, at, tag = service.queue, service.last + 1, line.tag
  while at > service.first do
    local other = queue[at - 1]
    if other.tag < tag or (other.tag == tag and (line.ids or not other.ids)) then
      break
    end
    queue[at] = other
    at = at - 1
  end
  queue[at], service.last, line.is_queued = line, service.last + 1, true
end

local function read_names(service, count)
  local part, names = redis.call('ZRANGE', groups, service.seen, service.seen + count - 1, 'WITHSCORES'), {}
  service.complete, service.seen = #part < 2 * count, service.seen + #part / 2
  for index = 1, #part, 2 do
    names[#names + 1] = part[index]
  end
  read_groups(names)
  for index, name in ipairs(names) do
    local tag = tonumber(part[2 * index])
    service.bound = tag
    queue_up(service, { name = name, tag = tag, start = tag, ids = false, at = 0, key = false, group = groups_read[name],
      cost = groups_read[name].cost, left = math.huge, claimed = 0, taken = false, ended = false, broken = false,
      is_queued = true, index = false, score = false })
  end
  service.any_claimed = service.any_claimed or any_claimed(names)
end

local function open_level(service, key, cost, tag)
  service.levels[#service.levels + 1] = { key = key, cost = cost, tag = math.max(number(tag, 0), service.level_turn),
    ids = {}, at = 0 }
end

-- Begin to serve `n` tasks. `turns` and `level_turns` are from the counters.
local function open_lines(n, strict, turns, level_turns, fence)
  local turn, own = string.match(turns or '', '^(%S+) (%S+)$')
  local level_turn, high, normal, low = string.match(level_turns or '', '^(%d+) (%d+) (%d+) (%d+)$')
  local service = { queue = {}, first = 1, last = 0, seen = 0, most = n + 22, complete = not has_used('g'), opened = {},
    picked = {}, tags = {}, lists = {}, list_tags = {}, levels = {}, strict = strict, turn = number(turn, nil) or read_turn(), level_turn = number(level_turn, 0),
    fence = math.max(number(fence, 0), microseconds(now) - 1), fences = {}, most_taken = 0 }
  if has_used('h') then
    open_level(service, pending .. ':high', 1, high)
  end
  open_level(service, pending, 4, normal)
  if has_used('h') then
    open_level(service, pending .. ':low', 16, low)
  end
  service.plain = { tag = math.max(number(own, 0), service.turn), cost = 1, left = math.huge }
  queue_up(service, service.plain)
  if not service.complete then
    read_names(service, n + 2) -- two more than are wanted: whether any are left
  end
  return service
end

local nothing = {}

local function open_line(service, line)
  line.ids = nothing
  local name = line.name
  if name then
    service.opened[#service.opened + 1] = line
    line.key = group_key('pending', name)
    if line.group.slots and service.any_claimed then
      local claimed = redis.pcall('SCARD', group_key('working', name))
      line.broken = type(claimed) ~= 'number' and mistyped(claimed)
      line.claimed = line.broken and 0 or claimed
    end
    if line.group.interval then
      line.group = read_arrival(name)
    end
    if line.group.is_limited then
      line.left = line.broken and 0 or (allowed_by(line.group, line.claimed))
    end
    if line.group.holds and size_of('SCARD', group_key('rejected', name)) > 0 then
      line.left = 0 -- dead letters hold it: that may have become the default since it was placed
    end
  end
end

-- The level whose turn it is among tasks without a group, or nil.
local function choose_level(service, wanted)
  local best
  for _, level in ipairs(service.levels) do
    if (not best or (not service.strict and level.tag < best.tag)) and has_next(level, wanted) then
      best = level
    end
  end
  return best
end

-- Pick ids in turn. Each has to be settled: it is taken, or costs its line nothing.
local function pick_ids(service, count)
  local ids, queue, picked, tags, lists, list_tags = {}, service.queue, service.picked, service.tags, service.lists,
    service.list_tags
  while #ids < count do
    local line = service.first <= service.last and queue[service.first]
    if not service.complete and (not line or line.tag > service.bound or (line.tag == service.bound and line.ids)) then
      if service.seen >= service.most then
        service.is_short = true
        break
      end
      read_names(service, 20)
    elseif not line then
      break
    else
      service.first, line.is_queued = service.first + 1, false
      if not line.ids then
        open_line(service, line)
      end
      local wanted = math.ceil((count - #ids) / (service.last - service.first + 2)) + 1
      local list = line
      if not line.name then
        list = choose_level(service, wanted)
      end
      if list and line.left >= 1 and has_next(list, wanted) then
        local index, read = #ids + 1, list.ids
        ids[index] = read[#read - list.at]
        list.at = list.at + 1
        picked[index], tags[index], lists[index], list_tags[index] = line, line.tag, list, list.tag
        line.tag, line.left = line.tag + line.cost, line.left - 1
        if list ~= line then
          list.tag = list.tag + list.cost
        end
        if line.left >= 1 and not (line.ended and line.at == #read) then
          queue_up(service, line)
        end
      end
    end
  end
  return ids
end

local function settle_id(service, index, id, is_taken)
  local line, list = service.picked[index], service.lists[index]
  if is_taken then
    if service.tags[index] > service.turn then
      service.turn = service.tags[index]
    end
    if line.name then
      line.taken = line.taken or {}
      line.taken[#line.taken + 1] = id
    else
      service.level_turn = math.max(service.level_turn, service.list_tags[index])
    end
  else
    line.tag, line.left = line.tag - line.cost, line.left + 1
    if list ~= line then
      list.tag = list.tag - list.cost
    end
    if not line.is_queued then
      queue_up(service, line)
    end
  end
end

-- Make the last reads: where the groups belong now. Returns how many lines there are from which consumers may take, as
-- count_lines does, or nil if that is not known; and the next time at which they may take from a group that is held from now
-- on.
local function look_back(service)
  local left, event, leaving = service.seen - #service.opened, nil, 0
  for _, level in ipairs(service.levels) do
    left = left + rest_of(level)
  end
  for _, line in ipairs(service.opened) do
    local group, count = line.group, line.taken and #line.taken or 0
    if group.interval and count > 0 then
      group.arrival = microseconds(now) + ahead(group) + count * group.interval
    end
    if not line.broken then
      line.index, line.score = index_of(line.name, group, line.at < #line.ids and 1 or rest_of(line), line.claimed + count)
    end
    if line.index == 'ready' then
      left = left + 1
    else
      leaving = leaving + 1
      if line.index == 'held' then
        event = math.min(event or math.huge, tonumber(line.score))
      elseif line.index then
        redis.call('ZCARD', groups .. ':blocked')
      end
    end
  end
  service.old_tags = leaving > 0
    and math.min(2 * leaving, redis.call('ZCOUNT', groups .. ':idle', '-inf', exactly(service.turn))) or 0
  return (service.complete or left > 1) and left or nil, event
end

-- Remove what was looked at from the lines, and put the groups where they belong. Returns fields of the counters.
local function write_lines(service)
  local fields, levels = {}, service.levels
  virtual = service.turn
  for _, level in ipairs(levels) do
    if level.at > 0 then
      redis.call('LTRIM', level.key, 0, -(level.at + 1))
    end
  end
  local scores, leaving, tags, emptied, places, arrivals = {}, {}, {}, {}, { blocked = {}, held = {} }, 0
  for _, line in ipairs(service.opened) do
    local name, taken = line.name, line.taken
    if line.ended and line.at == #line.ids then
      emptied[#emptied + 1] = line.key
    elseif line.at > 0 then
      redis.call('LTRIM', line.key, 0, -(line.at + 1))
    end
    if taken then
      redis.pcall('SADD', group_key('working', name), unpack(taken))
      if line.group.interval then
        write_arrival(name, line.group)
        arrivals = arrivals + 1
      end
    end
    if line.index == 'ready' then
      if line.tag ~= line.start then
        scores[#scores + 1], scores[#scores + 2] = exactly(line.tag), name
      end
    else
      leaving[#leaving + 1], tags[#tags + 1] = name, line.tag
      if line.index then
        local place = places[line.index]
        place[#place + 1], place[#place + 2] = line.score, name
      end
    end
  end
  if arrivals > 0 then
    forget_arrivals(arrivals)
  end
  remove_keys(emptied)
  if service.old_tags > 0 then
    redis.call('ZREMRANGEBYRANK', groups .. ':idle', 0, service.old_tags - 1)
  end
  try_each('ZADD', groups, scores)
  if #leaving > 0 then
    leave_index(leaving, tags)
  end
  try_each('ZADD', groups .. ':blocked', places.blocked)
  try_each('ZADD', groups .. ':held', places.held)
  if has_used('g') then
    fields[1], fields[2] = 'turn', exactly(service.turn) .. ' ' .. exactly(service.plain.tag)
  end
  if #levels > 1 and not service.strict then
    fields[#fields + 1] = 'levels'
    fields[#fields + 1] = whole(service.level_turn) .. ' ' .. whole(levels[1].tag) .. ' ' .. whole(levels[2].tag) .. ' '
      .. whole(levels[3].tag)
  end
  return fields
end

-- The fence of the next task that is taken of a group: above those of all claims before. Different groups may have the same.
local function raise_fence(service, name)
  local count = (service.fences[name] or 0) + 1
  service.fences[name], service.most_taken = count, math.max(service.most_taken, count)
  return whole(service.fence + count)
end

-- Write what a claim changed in the counters.
local function write_counters(service, fields, claimed, count)
  if service.most_taken > 0 then
    fields[#fields + 1], fields[#fields + 2] = 'fence', whole(service.fence + service.most_taken)
  end
  if count > 0 then
    redis.call('HSET', counters, 'claimed', whole(number(claimed, 0) + count), unpack(fields))
  end
end
