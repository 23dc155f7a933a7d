-- Shared by all scripts, between server.lua and the verb's own file. The loader has declared a local variable for every
-- key in the verb's header. `task` and `lane` are prefixes, to which an id or a number is appended.
--
-- Every verb reads all that it needs before its first write, and nothing after that write can fail, because an error does
-- not undo what a script wrote. A full server refuses a script that begins with a write that needs memory, and permits
-- everything after a removal, so every verb except enqueue begins with a removal (`begin_writing`).

local PENDING, WORKING, DELAYED, COMPLETED, REJECTED, EXPIRED = '0', '1', '2', '3', '4', '5'
local CHUNK = 1000          -- most values unpacked into one command
local LANE_TTL = 900000     -- ms; longer than any client goes on repeating a call
local HORIZON = 10          -- s; events further off are left to a later slice of the waiters
local GRACE = 50            -- ms; how long a timer outlives its event
local SET_ASIDE = 604800000 -- ms; for how long an id without a payload can be found
local EXPIRED_TTL = 60000   -- ms; for how long the state of an expired task is kept
local DEFAULT_TIMEOUT = 300 -- s; for a state whose timeout cannot be read
local UNKNOWN = '[^%spelghsc]' -- matches the letters of features that this version does not know

local features -- letters of those that the queue uses, if there are any; `totals` reads them

local now = clock() -- once: it moves within a script on older servers

-- A finite number, or the default, because any program may have written a state. Whole numbers are exact up to 9e15. The
-- epoch's times in microseconds are above 1e15.
local function number(text, default)
  if not text then
    return default
  end
  local value = tonumber(text)
  if not value or value ~= value or value >= 9e15 or value <= -9e15 then
    return default
  end
  return value
end

local function stamp(time)
  return string.format('%.6f', time)
end

local present = stamp(now)

local texts = {} -- formatting a number costs half as much as a command, and most are the same few

local function whole(value)
  local text = texts[value]
  if not text then
    text = string.format('%.0f', value)
    texts[value] = text
  end
  return text
end

local function state_key(id)
  return task .. ':' .. id
end

-- Run a command on many values, in chunks. Pairs stay together, because a chunk has an even number of values.
local function variadic(command, key, values)
  for first = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local function remove_keys(keys)
  for first = 1, #keys, CHUNK do
    redis.call('DEL', unpack(keys, first, math.min(first + CHUNK - 1, #keys)))
  end
end

-- Whether any of the keys exists.
local function exist(keys)
  for first = 1, #keys, CHUNK do
    if redis.call('EXISTS', unpack(keys, first, math.min(first + CHUNK - 1, #keys))) > 0 then
      return true
    end
  end
  return false
end

-- Run HMGET, ZMSCORE or SMISMEMBER, which return an answer for each value.
local function read(command, key, values)
  if #values > 0 and #values <= CHUNK then
    return redis.call(command, key, unpack(values))
  end
  local answers = {}
  for first = 1, #values, CHUNK do
    local last = math.min(first + CHUNK - 1, #values)
    local part = redis.call(command, key, unpack(values, first, last))
    for index = 1, #part do
      answers[first + index - 1] = part[index]
    end
  end
  return answers
end

-- Whether a read failed because the key has a wrong type. Any other error ends the script, which has written nothing yet.
-- On a cluster, for example, the key may have moved to another node before the others.
local function mistyped(answer)
  if answer.err and not string.find(answer.err, 'WRONGTYPE', 1, true) then
    error(answer.err)
  end
  return answer.err
end

local function has_used(letter)
  return features and string.find(features, letter, 1, true)
end

-- The letters of features that a task's state uses and the queue does not: its record of them was lost.
local function unnoted(id)
  local values = redis.call('HMGET', state_key(id), 'expires', 'cancel_time', 'group', 'level')
  local letters = ''
  for index, letter in ipairs({ 'e', 'c', 'g', 'h' }) do
    if values[index] and values[index] ~= '' and not has_used(letter) then
      letters = letters .. letter
    end
  end
  return letters
end

-- When a task expires, and whether it becomes a dead letter then; nil if it does not expire.
local function read_expiry(key)
  local values = has_used('e') and redis.call('HMGET', key, 'expires', 'on_expiry')
  local time = values and number(values[1], nil)
  return time and { time = time, rejects = values[2] == 'reject' }
end

-- From the moment at which a task expires, no consumer gets it.
local function is_late(state)
  return state.expiry and state.expiry.time <= tonumber(present)
end

-- When a delayed task is due: no later than it expires, so that it ends then.
local function due_time(state, delay)
  local due = now + tonumber(delay)
  return stamp(state.expiry and math.min(due, state.expiry.time) or due)
end

-- Whether the holder of a task was asked to end it.
local function is_called_off(state)
  return has_used('c') and redis.call('HMGET', state.key, 'cancel_time')[1]
end

local parsed = {} -- claims by their text, because most claims of a call are alike

-- The claim in a state: its deadline, token, dequeue_count and revision; nil if there is none, or in another format.
local function parse_claim(text)
  local claim = parsed[text or '']
  if claim == nil and text then
    local deadline, token, more = string.match(text, '^(%-?%d+%.%d+) (%S+)(.*)$')
    local count, revision = '1', '2'
    if more and more ~= '' then
      count, revision = string.match(more, '^ (%-?%d+) (%d+)$')
    end
    claim = deadline and count and { deadline = tonumber(deadline), token = token, count = tonumber(count),
      revision = tonumber(revision) }
    parsed[text] = claim or false
  end
  return claim or nil
end

-- The text of a claim. Most are first deliveries, of which it is short: states with long values need more memory.
local function claim_text(deadline, token, count, revision)
  local text = deadline .. ' ' .. token
  return count == '1' and revision == '2' and text or text .. ' ' .. count .. ' ' .. revision
end

-- The number of transitions of a task, by these fields of its state. A claim is not counted in the first of them.
local function revision_of(revision, claim)
  return math.max(number(revision, 1), claim and claim.revision or 1)
end

-- The fields of a task's state that verbs need; nil if the key has a wrong type.
local function read_state(id)
  local key = state_key(id)
  local values = redis.pcall('HMGET', key, 'claim', 'dequeue_count', 'revision', 'timeout', 'requeue_count',
    'max_dequeues', 'dequeue_base', 'headers')
  if mistyped(values) then
    return nil
  end
  local claim = parse_claim(values[1])
  return {
    key = key,
    claim = claim,
    dequeue_count = number(values[2], 0),
    revision = revision_of(values[3], claim),
    timeout = number(values[4], DEFAULT_TIMEOUT),
    requeue_count = number(values[5], 0),
    max_dequeues = number(values[6], nil),
    dequeue_base = number(values[7], 0),
    headers = values[8],
    expiry = read_expiry(key),
  }
end

-- The fields that ending a claim needs. Reading only these is faster, because the server searches the whole hash for a
-- field that is missing.
local function read_claim(id)
  local key = state_key(id)
  local values = redis.pcall('HMGET', key, 'claim', 'dequeue_count', 'revision')
  if mistyped(values) then
    return nil
  end
  local claim = parse_claim(values[1])
  return { key = key, claim = claim, dequeue_count = number(values[2], 0), revision = revision_of(values[3], claim) }
end

-- The reason for the dead letter if the delivery limit is reached, otherwise nil.
local function exhausted(state)
  if state.max_dequeues and state.dequeue_count - state.dequeue_base >= state.max_dequeues then
    return 'delivered ' .. whole(state.dequeue_count - state.dequeue_base) .. ' times, the limit is '
      .. whole(state.max_dequeues)
  end
end

-- Write a transition into the state, and publish it. Users without permission to publish can work as well.
local function transition(state, status, ...)
  local key = state.key
  state.revision = state.revision + 1
  local revision = whole(state.revision)
  redis.call('HSET', key, 'status', status, 'revision', revision, ...)
  redis.pcall('PUBLISH', key, revision .. ' ' .. status)
end

-- Read totals, and with them the letters of the features that the queue uses. If this version does not know one of them,
-- the script ends here, before its first write.
local function totals(...)
  local values = redis.call('HMGET', counters, 'uses', ...)
  features = values[1] ~= '' and values[1]
  if values[1] and string.find(values[1], UNKNOWN) then
    error('NEWER the queue uses features of a later version')
  end
  return unpack(values, 2)
end

local function add(name, old, amount)
  if amount > 0 then
    redis.call('HSET', counters, name, whole(number(old, 0) + amount))
  end
end

-- The number of shards of a queue that the caller assumes to have none; false or nil if it has none.
local function shards_of()
  local values = redis.call('HMGET', counters, 'shards', 'intended')
  return values[1] or string.match(values[2] or '', ' (.*)')
end

-- include lanes
-- include limits
-- include lines
-- include serving
-- include checks

-- When consumers may take again what they may not take now, if it is known and there is anything. A claim that ends is known
-- only then: the script that ends it hints.
local function reprieve()
  local limits, pause = restrictions()
  local _, time = allowed_by(limits, 0)
  time = pause and math.max(pause, time or pause) or time
  if time and time < math.huge then
    return (has_lines() and count_lines() or redis.call('LLEN', pending)) > 0 and time or nil
  end
end

-- include schedules

-- The timer and the hint ----------------------------------------------------------------------------------------------

local held -- q:timer, once it was read: number of the lane that waits for it | the event's time
local depth -- length of pending before the script wrote anything

-- Read the collections that rare verbs may write, so that a key of a wrong type is an error before any write. Common verbs
-- read these keys anyway, or begin with a write to one. The hint and the timer cannot fail a script.
local function look(places_no_group)
  depth = redis.call('LLEN', pending)
  redis.call('ZCARD', delayed)
  redis.call('ZCARD', working)
  if has_lines() then
    -- rarely
    look_at_lines()
    if not places_no_group then
      look_for_permission()
    end
    -- end
  end
end

local function minder()
  if held == nil then
    held = redis.pcall('GET', timer)
  end
  return type(held) == 'string' and held
end

-- Make the first write, a removal. With a cap, dead letters may be removed later, so users without permission for that are
-- stopped here.
local function begin_writing(cap)
  if tonumber(cap) then
    redis.call('ZREM', rejected, '') -- never an id
  else
    redis.call('DEL', lane) -- the bare prefix: never a key
  end
end

-- The earliest time at which a delayed task is due, a claim becomes stale, a schedule fires, or a pause ends or a rate permits
-- a delivery while tasks are pending.
local function earliest()
  local due = redis.pcall('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  local stale = redis.pcall('ZRANGE', working, 0, 0, 'WITHSCORES')[2]
  due, stale = tonumber(due), tonumber(stale)
  local event = due and stale and math.min(due, stale) or due or stale
  if features and string.find(features, '[plghs]') then
    -- rarely
    for _, time in pairs({ string.find(features, '[pl]') and reprieve(), next_held(), has_used('s') and next_slot() }) do
      event = time and math.min(event or time, time) or event
    end
    -- end
  end
  return event
end

local function covered(event)
  local minded = minder() and tonumber(string.match(held, '|(.*)$') or '')
  return minded and minded <= event
end

local function drop_timer()
  if minder() and string.match(held, '^(.-)|') == ARGV[1] then
    redis.call('DEL', timer)
    held = false
  end
end

-- Take the timer for the next event, if this lane's waiter will still be there and no other has it. Returns the seconds
-- until the event, or nil.
local function take_timer(willing)
  local event = willing > 0 and earliest()
  if not event or event <= now or event > now + HORIZON or covered(event) then
    return nil
  end
  local lifetime = math.ceil((math.min(event, now + willing) - now) * 1000) + GRACE
  held = ARGV[1] .. '|' .. string.format('%.17g', event)
  put(timer, held, whole(lifetime))
  return event - now
end

-- Wake idle consumers for this number of tasks, which they may take.
local function summon(left)
  if left > 1 then
    redis.pcall('ZADD', wake, 0, '0', 1, '1')
  else
    redis.pcall('ZADD', wake, 0, '0')
  end
end

-- How many tasks consumers may take now, or lines of which they may take one. `left` is the number of pending tasks, or in a
-- queue with lines that of lines with tasks, if it is known and no group has to be placed.
local function available(left)
  if touched then
    place_touched()
    left = nil
  end
  left = left or has_lines() and count_lines() or redis.call('LLEN', pending)
  return string.find(features, '[pl]') and permitted(left) or left
end

-- Every script that may have made work for idle consumers ends with this. `left` is the number of pending tasks, and `event`
-- the earliest event, if the caller knows them. `empty` means that a claim found nothing.
local function hint(empty, left, event)
  local free = not (features and string.find(features, left and not touched and '[pl]' or '[plgh]')) -- of pauses and limits
  left = left or free and redis.call('LLEN', pending)
  if free and left > 1 then
    redis.pcall('ZADD', wake, 0, '0', 1, '1')
  elseif free and left == 1 then
    redis.pcall('ZADD', wake, 0, '0')
  else
    -- rarely
    left = free and 0 or available(left)
    event = left == 0 and (event or earliest())
    if left > 0 then
      summon(left)
    elseif event and (event <= now or (event <= now + HORIZON and not covered(event))) then
      redis.pcall('ZADD', wake, 0, '0')
    elseif empty then
      redis.pcall('ZREM', wake, '0', '1') -- no DEL: those who wait are to hear of a key of the wrong type
    end
    -- end
  end
end

-- Ids without a payload -----------------------------------------------------------------------------------------------
-- They cannot be delivered, but they are not dropped either. On a cluster, a primary may fail while its slot moves. Its
-- replica does not know of the move, and runs scripts after payloads have left. Such ids are set aside, where an audit finds
-- them. A 0.9 release leaves ids without a payload for good, so old ones are removed.

local function set_aside(ids)
  if #ids == 0 then
    return
  end
  local scores = {}
  for index, id in ipairs(ids) do
    scores[2 * index - 1], scores[2 * index] = present, id
  end
  variadic('ZADD', missing, scores)
  local old = redis.call('ZRANGEBYSCORE', missing, '-inf', stamp(now - SET_ASIDE / 1000), 'LIMIT', 0, 20)
  variadic('ZREM', missing, old)
  expire(missing, SET_ASIDE)
end

-- If there are ids to set aside, read the key, so that a wrong type is an error before any write.
local function look_aside(ids)
  if #ids > 0 then
    redis.call('ZCARD', missing)
  end
end

-- Running tasks that are to be cancelled ------------------------------------------------------------------------------
-- If the holder of such a task releases or rejects it, that counts. Whatever else ends the claim would return the task to
-- the queue, and removes it instead.

-- Split the items of a verb into those that return to the queue and those to remove. The second list is empty unless
-- somebody asked for a cancellation.
local function split_called_off(items)
  if not has_used('c') then
    return items, {}
  end
  local kept, called_off = {}, {}
  for _, item in ipairs(items) do
    local list = is_called_off(item.state) and called_off or kept
    list[#list + 1] = item
  end
  if #called_off > 0 then
    redis.call('HLEN', tasks)
  end
  return kept, called_off
end

-- Delete tasks that are in no collection any more, and publish that they were cancelled.
local function remove_cancelled(items)
  for _, item in ipairs(items) do
    local state = item.state
    redis.call('HDEL', tasks, item.id)
    redis.call('DEL', state.key)
    redis.pcall('PUBLISH', state.key, whole(state.revision + 1) .. ' cancelled')
  end
end

-- Stale claims and due tasks ------------------------------------------------------------------------------------------

local function expired(key, limit)
  return redis.call('ZRANGEBYSCORE', key, '-inf', present, 'LIMIT', 0, limit)
end

-- Plan the end of a task whose turn has come, if it has had all its deliveries or has expired. Returns whether it ends. The
-- limit comes first, because a dead letter keeps its payload.
local function ends(plan, id, state)
  local reason = not state and 'its state is not a hash' or exhausted(state)
  if reason then
    plan.dead[#plan.dead + 1] = { id = id, state = state, reason = reason }
  elseif is_late(state) then
    plan.late[#plan.late + 1] = { id = id, state = state }
  else
    return false
  end
  return true
end

-- Decide, without writing, which tasks return to pending (`pushed`, in order), which become dead letters, which have
-- expired, which are to be cancelled, and which ids are set aside.
local function plan_return(stale_ids, due_ids)
  local plan = { stale_ids = stale_ids, due_ids = due_ids, stale = {}, due = {}, pushed = {}, returned = {}, dead = {},
    called_off = {}, missing = {}, late = {}, stale_count = 0 }
  if has_lines() then
    -- rarely
    plan.held = has_used('g') and expired(groups .. ':held', 20) or {}
    -- end
  end
  local function decide(id)
    local queued = redis.call('HEXISTS', tasks, id) == 1
    local state = queued and read_state(id)
    if not queued then
      plan.missing[#plan.missing + 1] = id
    elseif state and is_called_off(state) then
      plan.called_off[#plan.called_off + 1] = { id = id, state = state }
    elseif not ends(plan, id, state) then
      plan.pushed[#plan.pushed + 1] = id
      plan.returned[id] = state
    end
  end
  for _, id in ipairs(stale_ids) do
    plan.stale[id] = true
    decide(id)
  end
  plan.stale_count = #plan.pushed
  for _, id in ipairs(due_ids) do
    plan.due[id] = true
    if not plan.stale[id] then
      decide(id)
    end
  end
  return plan
end

local function bury(dead)
  for _, item in ipairs(dead) do
    redis.call('ZADD', rejected, present, item.id)
    if has_used('g') then
      -- rarely
      hold_group(item.id)
      -- end
    end
    if item.state then
      redis.call('HDEL', item.state.key, 'claim', 'cancel_time')
      transition(item.state, REJECTED, 'reason', item.reason, 'release_time', present)
    end
  end
end

-- End tasks that no consumer started in time: as dead letters, or with a final state that is kept for a while.
local function end_late(late)
  local gone = {}
  for _, item in ipairs(late) do
    local state = item.state
    if state.expiry.rejects then
      item.reason = 'expired'
      bury({ item })
    else
      gone[#gone + 1] = item.id
      redis.call('HDEL', state.key, 'claim')
      transition(state, EXPIRED, 'release_time', present)
      expire(state.key, EXPIRED_TTL)
    end
  end
  variadic('HDEL', tasks, gone)
  add('expired', #gone > 0 and redis.call('HMGET', counters, 'expired')[1], #gone)
  return #late - #gone
end

-- Delete dead letters beyond the cap, the oldest first: at most as many as were added, and 20 more.
local function trim(cap, added)
  local surplus = tonumber(cap) and added > 0 and redis.call('ZCARD', rejected) - tonumber(cap) or 0
  if surplus > 0 then
    local ids = redis.call('ZRANGEBYSCORE', rejected, '-inf', '+inf', 'LIMIT', 0, math.min(surplus, added + 20))
    local states = {}
    for index, id in ipairs(ids) do
      states[index] = state_key(id)
    end
    if has_used('g') then
      -- rarely
      release_groups(ids)
      -- end
    end
    variadic('ZREM', rejected, ids)
    variadic('HDEL', tasks, ids)
    remove_keys(states)
  end
end

-- Every script ends claims with this, before it deletes their states.
local function leave_working(ids)
  variadic('ZREM', working, ids)
  if has_lines() then
    -- rarely
    leave_groups(ids)
    -- end
  end
end

-- Let tasks wait again: at the `back`, at the `front` in the order given, or where they `return` to (see join_lines).
local function line_up(ids, where)
  if has_lines() then
    -- rarely
    join_lines(ids, where)
    -- end
  elseif where == 'front' then
    local reversed = {}
    for index = #ids, 1, -1 do
      reversed[#reversed + 1] = ids[index]
    end
    variadic('RPUSH', pending, reversed)
  else
    variadic('LPUSH', pending, ids)
  end
end

local function return_planned(plan)
  leave_working(plan.stale_ids)
  variadic('ZREM', delayed, plan.due_ids)
  set_aside(plan.missing)
  remove_cancelled(plan.called_off)
  for _, id in ipairs(plan.pushed) do
    local state = plan.returned[id]
    state.requeue_count = state.requeue_count + 1
    redis.call('HDEL', state.key, 'claim')
    transition(state, PENDING, 'last_requeue_time', present, 'requeue_count', whole(state.requeue_count))
  end
  if plan.held then
    -- rarely
    return_to_lines(plan)
    -- end
  else
    variadic('LPUSH', pending, plan.pushed)
  end
  bury(plan.dead)
  return #plan.dead + end_late(plan.late)
end

-- Claims --------------------------------------------------------------------------------------------------------------

-- Whether a receipt is the live claim of a task with this score in working and this claim in its state. 0.9 gives the task
-- another score when it claims it, and leaves the claim in the state. An empty token matches any live claim.
local function is_live(score, claim, token, count)
  return score and (token == '' or (claim and claim.token == token and claim.count == tonumber(count)
    and claim.deadline == tonumber(score)))
end

-- Move the deadline of a claim that had this score in working, so that it stays live.
local function move_claim(state, score, deadline)
  local claim = state.claim
  if claim and claim.deadline == tonumber(score) then
    redis.call('HSET', state.key, 'claim', claim_text(deadline, claim.token, whole(claim.count), whole(claim.revision)))
  end
end

-- The items of a verb that acts on claims: `width` arguments each, the first three id, token and dequeue_count. `read_of`
-- reads as much of their states as the verb needs. Merged calls may contain a claim twice, and are answered as if one came
-- after the other: a verb that ends claims finds none the second time, one that `keeps` them finds it again.
-- Returns the items with live claims, and an answer for each item: o ok, l lost, u unknown, x state of a wrong type.
local function claimed_items(width, read_of, keeps)
  local ids, items, answers, seen = {}, {}, {}, {}
  redis.call('ZRANGEBYSCORE', working, 1, 0) -- nothing: only those who may take tasks may do that
  for at = 4, #ARGV, width do
    ids[#ids + 1] = ARGV[at]
  end
  local scores = read('ZMSCORE', working, ids)
  for index = 1, #ids do
    local id, at = ids[index], 4 + (index - 1) * width
    local state = scores[index] and not seen[id] and read_of(id)
    if state == nil then
      answers[index] = 'x'
    elseif state and is_live(scores[index], state.claim, ARGV[at + 1], ARGV[at + 2]) then
      seen[id] = not keeps
      answers[index] = 'o'
      items[#items + 1] = { id = id, at = at, state = state, score = scores[index] }
    else
      answers[index] = ARGV[at + 1] == '' and 'u' or 'l'
    end
  end
  return items, answers
end

local function ids_of(items)
  local ids = {}
  for index, item in ipairs(items) do
    ids[index] = item.id
  end
  return ids
end

-- End claims as if the tasks had not been delivered: they return to the front of pending, in order. Both lists are those of
-- `split_called_off`.
local function give_back(items, called_off)
  local ids = ids_of(items)
  line_up(ids, 'front') -- first, as only consumers have the right to it: others change nothing
  leave_working(ids)
  leave_working(ids_of(called_off))
  remove_cancelled(called_off) -- their deliveries still count for the rate
  for _, item in ipairs(items) do
    redis.call('HDEL', item.state.key, 'claim')
    transition(item.state, PENDING, 'dequeue_count', whole(item.state.dequeue_count - 1))
  end
  if has_used('l') then
    uncount_deliveries(items)
  end
  if has_lines() then
    -- rarely
    uncount_in_groups(items)
    -- end
  end
end
