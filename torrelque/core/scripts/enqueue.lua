-- Add tasks to the back of pending, or to delayed, or replace waiting ones. If the id of a task is already queued, nothing
-- changes for it, unless its item says so.
-- KEYS: pending delayed working tasks task wake timer counters rejected groups lane
-- ARGV: lane nonce sequence, words per item (2, 3, 6, 9 or 11; +2 if all ids are new and different); if 2 or 3, what all items
--   share: timeout delay max_dequeues headers (the last three may be ''); then for each task: id payload, and if 3 its group
--   or ''; and if 6 its own timeout delay max_dequeues headers, and if 9 also replace to replace a waiting task with that id,
--   only to do that and not to add a task, or ''; when it expires, as Unix time
--   or with a plus in seconds from now, or ''; reject to make it a dead letter then, or ''; and if 11 also its group or '', and
--   its level, high, low or ''; then, in a queue with shards, the layout's generation
-- returns: OK and a letter for each task: n new, e existing, r replaced, w not replaced because a consumer works on it, d not
--   replaced because it is a dead letter, u nothing to replace, a not done and to be sent again; RESHARDED if another
--   generation is recorded; SHARDED and the number of shards if the queue has shards and the caller assumes none

local outcome, answer = enter()
if outcome then
  -- rarely
  return again(outcome, answer)
  -- end
end
local enqueued, generation, turns = totals('enqueued', 'generation', 'turn')
local width = tonumber(ARGV[4])
local begin = width <= 3 and 9 or 5
local count = math.floor((#ARGV - begin + 1) / width)
if #ARGV >= begin + count * width and number(generation, 0) ~= tonumber(ARGV[#ARGV]) then
  -- rarely
  return refuse('RESHARDED')
  -- end
end
if number(enqueued, 0) == 0 then -- a queue that was used without shards can have none
  -- rarely
  local shards = shards_of()
  if shards then
    return refuse('SHARDED', shards)
  end
  -- end
end

local prefix, states, any, are_new = task .. ':', {}, nil, ARGV[4] == '+2'
local answers, fresh, payloads, pushed, later, seen = {}, {}, {}, {}, {}, {}
local are_plain = are_new and ARGV[6] .. ARGV[7] .. ARGV[8] == '' -- no delay, limit or headers
if are_plain then
  for index = 1, count do
    local id = ARGV[7 + 2 * index]
    pushed[index], states[index] = id, prefix .. id
  end
else
  for index = 1, count do
    states[index] = prefix .. ARGV[begin + (index - 1) * width]
  end
  any = not are_new and exist(states) -- mostly none has ever been used, and none need be looked at alone
end
local revisions, postponed, advanced -- of tasks that are replaced
local expiries, any_expires
local letters, joined = '', nil -- of features that are used for the first time; ids that join other lines than pending
if width > 6 then
  -- rarely
  -- A call may contain an id several times: each item is answered as if it were a call, and the last one done is written.
  local plans, order, searched, by_key = {}, {}, nil, {}
  joined = {}
  local function line_of_item(at)
    local group, level = width > 9 and ARGV[at + 9] or '', width > 9 and ARGV[at + 10] or ''
    return group ~= '' and group_key('pending', group) or level ~= '' and pending .. ':' .. level or pending, group, level
  end
  for index = 1, count do
    local at = begin + (index - 1) * width
    local id, mode, delays = ARGV[at], ARGV[at + 6], ARGV[at + 3] ~= ''
    local plan, letter = plans[id], 'e'
    if not plan then
      plan = { id = id, queued = any and redis.call('EXISTS', states[index]) == 1 and redis.call('HEXISTS', tasks, id) == 1 }
      plans[id] = plan
    end
    if not plan.queued and not plan.index then
      letter = mode == 'only' and 'u' or 'n'
    elseif mode ~= '' then
      plan.place = plan.place or not plan.queued and 'none' or redis.call('ZSCORE', delayed, id) and 'delayed'
        or redis.call('ZSCORE', working, id) and 'w' or redis.call('ZSCORE', rejected, id) and 'd' or 'pending'
      if plan.place == 'pending' and not plan.key then
        plan.key, plan.group = pending, nil
        if has_lines() then
          plan.key, plan.group = line_of(id)
        end
      end
      local moves = plan.place == 'pending' and (delays or plan.key ~= line_of_item(at))
      if plan.place == 'w' or plan.place == 'd' then
        letter = plan.place
      elseif plan.again or (moves and searched and searched ~= plan) then
        letter, plan.again = 'a', true -- one search per call, because it takes time proportional to pending
      else
        if moves and not searched then
          searched, plan.held = plan, not redis.call('LPOS', plan.key, id) -- by a 0.9 consumer that is about to claim it
        end
        letter = moves and plan.held and 'w' or 'r'
      end
    end
    if letter == 'n' or letter == 'r' then
      if not plan.index then
        order[#order + 1] = plan
      end
      plan.index = index
    end
    answers[index] = letter
  end
  if ARGV[1] == '' and (answers[1] == 'w' or answers[1] == 'd') then
    return redis.error_reply('EXISTS the task is worked on or a dead letter, nothing was changed')
  end
  revisions, advanced, expiries = {}, {}, {}
  for place, plan in ipairs(order) do
    local at = begin + (plan.index - 1) * width
    local id, delay, expires = plan.id, ARGV[at + 3], ARGV[at + 7]
    local expiry = expires ~= '' and { time = tonumber(expires) + (string.sub(expires, 1, 1) == '+' and now or 0) } or nil
    expiries[place] = expiry
    any_expires = any_expires or expiry
    fresh[place], revisions[place] = plan.index, plan.queued
    payloads[2 * place - 1], payloads[2 * place] = id, ARGV[at + 1]
    local key, group, level = line_of_item(at)
    letters = letters .. (group ~= '' and 'g' or '') .. (level ~= '' and 'h' or '')
    if plan.place == 'pending' and (delay ~= '' or plan.key ~= key) then
      postponed = plan
    end
    if delay ~= '' then
      later[#later + 1] = due_time({ expiry = expiry }, delay)
      later[#later + 1] = id
    elseif plan.place ~= 'pending' or plan.key ~= key then -- there it keeps its place
      advanced[#advanced + 1] = plan.place == 'delayed' and id or nil
      if key == pending then
        pushed[#pushed + 1] = id
      else
        local part = by_key[key]
        if not part then
          redis.call('LLEN', key) -- if it has a wrong type, the script ends here
          part = { key = key, group = group ~= '' and group }
          by_key[key] = part
          joined[#joined + 1] = part
        end
        part[#part + 1] = id
      end
    end
  end
  -- end
elseif not are_plain then
  for index = 1, count do
    local at = begin + (index - 1) * width
    local id, delay = ARGV[at], ARGV[width <= 3 and 6 or at + 3]
    -- HEXISTS instead of HMGET, because users that may only enqueue have no permission to read payloads.
    local queued = any and redis.call('EXISTS', states[index]) == 1 and redis.call('HEXISTS', tasks, id) == 1
    if queued or seen[id] then
      answers[index] = 'e'
    else
      local place = #fresh + 1
      answers[index], seen[id], fresh[place] = 'n', true, index
      payloads[2 * place - 1], payloads[2 * place] = id, ARGV[at + 1]
      if width == 3 and ARGV[at + 2] ~= '' then
        -- rarely
        joined, letters = joined or {}, 'g'
        local name = ARGV[at + 2]
        local part = joined[name]
        if delay ~= '' then
          later[#later + 1] = stamp(now + tonumber(delay))
          later[#later + 1] = id
        elseif part then
          part[#part + 1] = id
        else
          part = { id, group = name }
          joined[#joined + 1], joined[name] = part, part
        end
        -- end
      elseif delay == '' then
        pushed[#pushed + 1] = id
      else
        later[#later + 1] = stamp(now + tonumber(delay))
        later[#later + 1] = id
      end
    end
  end
end

-- The first write needs memory. On a full server, or on a key of a wrong type, the script fails here with nothing done.
local waiting = redis.call('LLEN', pending)
local ready = 0 -- groups that can be served
if joined then
  -- rarely
  if letters ~= '' or has_used('g') then
    ready = redis.call('ZCARD', groups)
  end
  -- end
end
if #later > 0 then
  redis.call('ZCARD', delayed)
end
for first = 9, are_plain and 7 + 2 * count or 0, CHUNK do
  redis.call('HSET', tasks, unpack(ARGV, first, math.min(first + CHUNK - 1, 8 + 2 * count)))
end
variadic('HSET', tasks, payloads)
local count_new = are_plain and count or #fresh
if revisions then
  -- rarely
  for place = 1, #fresh do
    if revisions[place] then -- incremented unread, because states may have results
      local revision = redis.pcall('HINCRBY', states[fresh[place]], 'revision', 1)
      revisions[place] = whole(type(revision) == 'number' and math.max(revision, 2) or 2)
      count_new = count_new - 1
    end
  end
  if postponed then
    redis.call('LREM', postponed.key, 0, postponed.id)
    if postponed.group then
      touch(postponed.group)
    end
  end
  variadic('ZREM', delayed, advanced)
  -- end
end
if any then
  -- rarely
  local finished = {}
  for place, index in ipairs(fresh) do
    finished[place] = states[index]
  end
  remove_keys(finished) -- a finished result of the same id must not expire under the new task
  -- end
end
for index = 1, are_plain and count or 0 do
  redis.call('HSET', states[index], 'status', PENDING, 'timeout', ARGV[5], 'enqueue_time', present)
  redis.pcall('PUBLISH', states[index], '1 ' .. PENDING)
end
for place = 1, #fresh do
  local index = fresh[place]
  local key, at = states[index], width <= 3 and 5 or begin + (index - 1) * width + 2
  local timeout, limit, headers = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  local status = ARGV[at + 1] == '' and PENDING or DELAYED
  local revision, expiry, line = nil, nil, nil
  if revisions then
    revision, expiry = revisions[place], expiries[place]
    line = width > 9 and (ARGV[at + 7] ~= '' and 'group' or ARGV[at + 8] ~= '' and 'level')
  end
  local group = width == 3 and ARGV[begin + 3 * index - 1]
  if group and group ~= '' then
    line = 'group'
  end
  if limit == '' and headers == '' and not (revision or expiry or line) then
    redis.call('HSET', key, 'status', status, 'timeout', timeout, 'enqueue_time', present)
  elseif group and limit == '' and headers == '' then
    redis.call('HSET', key, 'status', status, 'timeout', timeout, 'enqueue_time', present, 'group', group)
  else
    local fields = { 'status', status, 'timeout', timeout, 'enqueue_time', present }
    if limit ~= '' then
      fields[7], fields[8] = 'max_dequeues', limit
    end
    if headers ~= '' then
      fields[#fields + 1], fields[#fields + 2] = 'headers', headers
    end
    if revision or limit ~= '' or headers ~= '' then -- claims look for these where there is a revision
      fields[#fields + 1], fields[#fields + 2] = 'revision', revision or '1'
    end
    if expiry then
      fields[#fields + 1], fields[#fields + 2] = 'expires', stamp(expiry.time)
      if ARGV[at + 6] ~= '' then
        fields[#fields + 1], fields[#fields + 2] = 'on_expiry', ARGV[at + 6]
      end
    end
    if line then
      fields[#fields + 1], fields[#fields + 2] = line, group or ARGV[line == 'group' and at + 7 or at + 8]
    end
    redis.call('HSET', key, unpack(fields))
  end
  redis.pcall('PUBLISH', key, (revision or '1') .. ' ' .. status)
end
local left
for first = 1, #pushed, CHUNK do
  left = redis.call('LPUSH', pending, unpack(pushed, first, math.min(first + CHUNK - 1, #pushed)))
end
variadic('ZADD', delayed, later)
if joined then
  -- rarely
  for _, part in ipairs(joined) do
    if push_to('LPUSH', part.key or group_key('pending', part.group), part) and part.group then
      touch(part.group, 'nowhere')
    end
  end
  left = left or waiting
  letters = (any_expires and 'e' or '') .. letters
  local uses = features or ''
  for letter in string.gmatch(letters, '[egh]') do
    uses = uses .. (string.find(uses, letter, 1, true) and '' or letter)
  end
  if uses ~= (features or '') then
    redis.call('HSET', counters, 'uses', uses)
    features = uses
  end
  local turn = string.match(turns or '', '^%S+')
  virtual = turn and number(turn, 0)
  ready = ready + place_touched()
  left = not postponed and not has_used('h') and left + ready or nil
  -- end
elseif has_lines() then
  left = nil
end
add('enqueued', enqueued, count_new)
hint(false, left)
return leave(are_plain and string.rep('n', count) or table.concat(answers))
