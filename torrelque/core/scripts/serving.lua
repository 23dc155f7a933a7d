-- Serving: which line a claim takes its next task from. prelude.lua includes this file.

-- A claim takes from the line whose turn it is: the one with the least tag. That costs the line 1 / weight, and the time of
-- the lines moves on to the tag (start-time fair queueing). A line has `ids`, those read so far from the front of its list,
-- `at`, how many of them were looked at, and `left`, how many more tasks it may give. `service` is what a claim knows of all
-- lines: `queue`, from `first` to `last` in order of their turns; `seen`, how many names were read from `groups`, of at most
-- `most`; `complete`, whether these are all, and the tag of the last one, `bound`.

-- Whether a list has another id. Reads some, if necessary.
local function has_next(list, wanted)
  if list.at == #list.ids and not list.ended then
    local part = (list.name and redis.pcall or redis.call)('LRANGE', list.key, -(list.at + wanted), -(list.at + 1))
    if part.err then
      list.broken = mistyped(part)
      part = {}
    end
    for index = #part, 1, -1 do
      list.ids[#list.ids + 1] = part[index]
    end
    list.ended = #part < wanted
  end
  return list.at < #list.ids
end

-- How many ids are left in a list.
local function rest_of(list)
  return (list.ended and #list.ids or size_of('LLEN', list.key)) - list.at
end

-- Put a line into the queue: behind those with the same tag, but before those of them that had their turn.
local function queue_up(service, line)
  local queue, at = service.queue, service.last + 1
  while at > service.first and (queue[at - 1].tag > line.tag
    or (queue[at - 1].tag == line.tag and queue[at - 1].ids and not line.ids)) do
    queue[at] = queue[at - 1]
    at = at - 1
  end
  queue[at], service.last, line.is_queued = line, service.last + 1, true
end

local function read_names(service, count)
  local part = redis.call('ZRANGE', groups, service.seen, service.seen + count - 1, 'WITHSCORES')
  service.complete, service.seen = #part < 2 * count, service.seen + #part / 2
  for index = 1, #part, 2 do
    service.bound = tonumber(part[index + 1])
    queue_up(service, { name = part[index], tag = service.bound })
  end
end

local function open_level(service, key, cost, tag)
  service.levels[#service.levels + 1] = { key = key, cost = cost, tag = math.max(number(tag, 0), service.level_turn),
    ids = {}, at = 0 }
end

-- Begin to serve `n` tasks. `turns` and `level_turns` are from the counters.
local function open_lines(n, strict, turns, level_turns)
  local turn, own = string.match(turns or '', '^(%S+) (%S+)$')
  local level_turn, high, normal, low = string.match(level_turns or '', '^(%d+) (%d+) (%d+) (%d+)$')
  local service = { queue = {}, first = 1, last = 0, seen = 0, most = n + 22, complete = not has_used('g'), opened = {},
    picked = {}, levels = {}, strict = strict, turn = number(turn, 0), level_turn = number(level_turn, 0) }
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

local function open_line(service, line)
  line.ids = {}
  if line.name then
    local group = group_of(line.name)
    service.opened[#service.opened + 1] = line
    line.key, line.at, line.taken, line.start = group_key('pending', line.name), 0, {}, line.tag
    line.group, line.cost = group, group.cost
    local claimed = redis.pcall('SCARD', group_key('working', line.name))
    line.broken = type(claimed) ~= 'number' and mistyped(claimed)
    group.claimed = line.broken and 0 or claimed
    if group.interval then
      read_arrival(group)
    end
    line.left = line.broken and 0 or (allowed_by(group, group.claimed))
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
  local ids, queue, picked = {}, service.queue, {}
  service.picked = picked
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
        list.at = list.at + 1
        ids[#ids + 1] = list.ids[list.at]
        picked[#ids] = { line = line, tag = line.tag, list = list, list_tag = list.tag }
        line.tag, line.left = line.tag + line.cost, line.left - 1
        if list ~= line then
          list.tag = list.tag + list.cost
        end
        if line.left >= 1 then
          queue_up(service, line)
        end
      end
    end
  end
  return ids
end

local function settle_id(service, index, id, is_taken)
  local choice = service.picked[index]
  local line, list = choice.line, choice.list
  if is_taken then
    service.turn = math.max(service.turn, choice.tag)
    if line.name then
      line.taken[#line.taken + 1] = id
    else
      service.level_turn = math.max(service.level_turn, choice.list_tag)
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
    local group = line.group
    group.waiting = line.at < #line.ids and 1 or rest_of(line)
    group.claimed = group.claimed + #line.taken
    if group.interval and #line.taken > 0 then
      group.arrival = microseconds(now) + ahead(group) + #line.taken * group.interval
    end
    if not line.broken then
      line.index, line.score = index_of(group)
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
    and redis.call('ZRANGEBYSCORE', groups .. ':idle', '-inf', exactly(service.turn), 'LIMIT', 0, 2 * leaving) or {}
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
  for _, line in ipairs(service.opened) do
    local name, taken = line.name, line.taken
    if line.at > 0 then
      redis.call('LTRIM', line.key, 0, -(line.at + 1))
    end
    if #taken > 0 then
      redis.call('SADD', group_key('working', name), unpack(taken))
      if line.group.interval then
        write_arrival(line.group)
      end
    end
    if line.index == 'ready' then
      if line.tag ~= line.start then
        redis.call('ZADD', groups, exactly(line.tag), name)
      end
    else
      redis.call('ZREM', groups, name)
      keep_tag(name, line.tag)
      if line.index then
        redis.call('ZADD', groups .. ':' .. line.index, line.score, name)
      end
    end
  end
  if #service.old_tags > 0 then
    redis.call('ZREM', groups .. ':idle', unpack(service.old_tags))
  end
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

-- Write what a claim changed in the counters.
local function write_counters(fields, claimed, count)
  if fields.fence then
    fields[#fields + 1], fields[#fields + 2] = 'fence', fields.fence
  end
  if count > 0 then
    redis.call('HSET', counters, 'claimed', whole(number(claimed, 0) + count), unpack(fields))
  end
end
