-- Claim up to n tasks for the caller, after returning stale and due ones to pending, at most 20 of each.
-- KEYS: pending delayed working tasks task wake timer counters rejected missing lane
-- ARGV: lane nonce sequence n willing (seconds that the caller would go on waiting; 0: it does not wait), then the most
--   dead letters to be kept, if there is a cap
-- returns: SHARDED and how many if the queue has several shards, of which the caller knows nothing; else OK, seconds until the event that the caller minds now or '', 1 if a budget ran out before n were found,
--   the server's time, then for each task: id payload dequeue_count deadline headers attempt (which delivery it is since
--   the task was enqueued or last redriven)

local K = 20
local n, willing = tonumber(ARGV[4]), tonumber(ARGV[5])

local function answer_task(reply, at, id, payload, count, deadline, state)
  reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = id, payload, whole(count), deadline
  reply[at + 5], reply[at + 6] = state.headers or '', whole(count - state.dequeue_base)
end

-- A state as far as it is needed for a delivery; nil where the key is of a wrong type.
local function read_pending(id)
  local key = state_key(id)
  local values = redis.pcall('HMGET', key, 'status', 'timeout', 'dequeue_count', 'revision', 'max_dequeues',
    'dequeue_base', 'headers')
  if mistyped(values) then
    return nil
  end
  local count, revision, limit, base = values[3], values[4], values[5], values[6]
  return {
    key = key,
    status = values[1],
    timeout = number(values[2], DEFAULT_TIMEOUT),
    dequeue_count = count and number(count, 0) or 0,
    revision = revision and number(revision, 1) or 1,
    max_dequeues = limit and number(limit, nil),
    dequeue_base = base and number(base, 0) or 0,
    headers = values[7],
  }
end

local outcome, answer = enter()
if outcome == 'OK' then
  -- rarely
  -- A repeat answers what of the first answer is still the caller's; with nothing left it is told to claim anew.
  local reply, at = { 'OK', '', 0, present }, 2
  while at <= #answer do
    local count, length, first = string.match(answer, '^(%-?%d+):(%d+):()', at)
    local id = string.sub(answer, first, first + tonumber(length) - 1)
    at = first + tonumber(length)
    local score, payload = redis.call('ZSCORE', working, id), redis.call('HGET', tasks, id)
    local state = score and payload and read_state(id)
    if state and is_live(score, state.claim, state.dequeue_count, token(), count) then
      answer_task(reply, #reply, id, payload, tonumber(count), stamp(tonumber(score)), state)
    end
  end
  if #reply == 4 then
    reply[3] = 1
  end
  expire(lane_key, LANE_TTL)
  return reply
  -- end
elseif outcome then
  return { outcome }
end

local claimed, requeued, refused = totals('claimed', 'requeued', 'rejected')
if number(claimed, 0) == 0 then
  -- rarely
  local shards = shards_of()
  if shards then
    return { 'SHARDED', shards }
  end
  -- end
end
local stale = tonumber(redis.call('ZRANGE', working, 0, 0, 'WITHSCORES')[2])
local due = tonumber(redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2])
local event = stale and due and math.min(stale, due) or stale or due

-- What goes back to pending first, if anything does.
local none = {}
local plan = { stale = none, due = none, stale_ids = none, due_ids = none, pushed = none, returned = none, dead = none,
  missing = {}, stale_count = 0 }
local returns = event and event <= tonumber(present)
if returns then
  -- rarely
  plan = plan_return(expired(working, K), expired(delayed, K))
  -- end
end

local front = redis.call('LRANGE', pending, -(n + 2), -1) -- two more than are wanted: whether any are left
local length = #front < n + 2 and #front -- of pending, once its end was seen

-- Ids by their place from the front of pending as it will be once the planned ones are pushed.
local function page(from, count)
  local ids, part = {}, from == 1 and front or none
  if from > 1 and (not length or from <= length) then
    part = redis.call('LRANGE', pending, -(from + count - 1), -from)
    length = length or #part < count and from - 1 + #part
  end
  for index = #part, math.max(1, #part - count + 1), -1 do
    ids[#ids + 1] = part[index]
  end
  while length and #ids < count and plan.pushed[from + #ids - length] do
    ids[#ids + 1] = plan.pushed[from + #ids - length]
  end
  return ids
end

local taken, dead, looked_at, mine = {}, {}, 0, {}
while #taken < n and looked_at < n + K do
  local ids = page(looked_at + 1, math.min(n - #taken, n + K - looked_at))
  if #ids == 0 then
    break
  end
  looked_at = looked_at + #ids
  local payloads = read('HMGET', tasks, ids)
  for index = 1, #ids do
    local id = ids[index]
    if not payloads[index] then
      plan.missing[#plan.missing + 1] = id
    elseif not mine[id] then
      local state = plan.returned[id] or read_pending(id)
      -- A state that says pending is believed. What says otherwise may be listed elsewhere, too.
      if state and state.status == PENDING or not (
        (not plan.stale[id] and redis.call('ZSCORE', working, id))
        or (not plan.due[id] and redis.call('ZMSCORE', delayed, id)[1])
        or redis.call('ZMSCORE', rejected, id)[1]
      ) then
        mine[id] = true
        if not state or state.max_dequeues and exhausted(state) then
          dead[#dead + 1] = { id = id, state = state, reason = state and exhausted(state) or 'its state is not a hash' }
        else
          taken[#taken + 1] = { id = id, payload = payloads[index], state = state }
        end
      end
    end
  end
end
local short = #taken < n
  and (#plan.stale_ids == K or #plan.due_ids == K or looked_at == n + K)
local left -- pending afterwards, as far as that is known
if not returns then
  left = length and length - looked_at or looked_at <= n and 2 or nil
end

if returns or #dead > 0 or #plan.missing > 0 then
  -- rarely
  local buried = #plan.dead + #dead
  if buried > 0 then
    redis.call('ZCARD', rejected)
  end
  look_aside(plan.missing)
  begin_writing(ARGV[6])
  return_planned(plan)
  if looked_at > 0 then
    redis.call('LTRIM', pending, 0, -(looked_at + 1))
  end
  bury(dead)
  add('requeued', requeued, plan.stale_count)
  add('rejected', refused, buried)
  trim(ARGV[6], buried)
  -- end
else
  if looked_at == 0 or ARGV[6] then
    begin_writing(ARGV[6])
  end
  if looked_at > 0 then
    redis.call('LTRIM', pending, 0, -(looked_at + 1)) -- a removal as well
  end
end
drop_timer()
local reply, receipts, scores, deadlines, mark = { 'OK', '', short and 1 or 0, present }, {}, {}, {}, token()
for index = 1, #taken do
  local item = taken[index]
  local id, state = item.id, item.state
  local key, timeout, count = state.key, state.timeout, state.dequeue_count + 1
  local delivery, revision = whole(count), whole(state.revision + 1)
  local deadline = deadlines[timeout]
  if not deadline then -- mostly it is the same for all
    deadline = stamp(now + timeout)
    deadlines[timeout] = deadline
    event = math.min(event or math.huge, now + timeout)
  end
  scores[2 * index - 1], scores[2 * index] = deadline, id
  redis.call('HSET', key, 'status', WORKING, 'revision', revision, 'claim', mark, 'last_dequeue_time', present,
    'dequeue_count', delivery)
  redis.pcall('PUBLISH', key, revision .. ' ' .. WORKING)
  receipts[index] = delivery .. ':' .. #id .. ':' .. id
  answer_task(reply, 6 * index - 2, id, item.payload, count, deadline, state)
end
variadic('ZADD', working, scores)
add('claimed', claimed, #taken)
if #taken == 0 then
  -- rarely
  local alarm = take_timer(willing)
  reply[2] = alarm and stamp(alarm) or ''
  -- end
end
hint(#taken == 0, left, not returns and event)
record('open', 'c' .. table.concat(receipts))
return reply
