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
  local values = redis.pcall('HMGET', key, 'dequeue_count', 'revision', 'timeout', 'max_dequeues', 'dequeue_base',
    'headers')
  if mistyped(values) then
    return nil
  end
  local count, revision, limit, base = values[1], values[2], values[4], values[5]
  return {
    key = key,
    dequeue_count = count and number(count, 0) or 0,
    revision = revision and number(revision, 1) or 1,
    timeout = number(values[3], DEFAULT_TIMEOUT),
    max_dequeues = limit and number(limit, nil),
    dequeue_base = base and number(base, 0) or 0,
    headers = values[6],
  }
end

-- A repeat answers what of the first answer is still the caller's; with nothing left it is told to claim anew.
local function repeated(answer)
  local reply, at = { 'OK', '', 0, present }, 2
  while at <= #answer do
    local count, length, first = string.match(answer, '^(%-?%d+):(%d+):()', at)
    local id = string.sub(answer, first, first + tonumber(length) - 1)
    at = first + tonumber(length)
    local score, payload = redis.call('ZSCORE', working, id), redis.call('HGET', tasks, id)
    local state = score and payload and read_state(id)
    if state and is_live(score, state, token(), count) then
      answer_task(reply, #reply, id, payload, tonumber(count), stamp(tonumber(score)), state)
    end
  end
  if #reply == 4 then
    reply[3] = 1
  end
  expire(lane_key(), LANE_TTL)
  return reply
end

local outcome, answer = enter()
if outcome == 'OK' then
  return repeated(answer)
elseif outcome then
  return { outcome }
end

local claimed, requeued, refused = totals('claimed', 'requeued', 'rejected')
look()
local buried = redis.call('ZCARD', rejected)
local shards = number(claimed, 0) == 0 and shards_of()
if shards then
  return { 'SHARDED', shards }
end
local plan = plan_return(expired(working, K), expired(delayed, K))

-- Ids by their place from the front of pending as it will be once the planned ones are pushed.
local function page(from, count)
  local ids = {}
  if from <= depth then
    local part = redis.call('LRANGE', pending, -(from + count - 1), -from)
    for index = #part, 1, -1 do
      ids[#ids + 1] = part[index]
    end
  end
  while #ids < count and plan.pushed[from + #ids - depth] do
    ids[#ids + 1] = plan.pushed[from + #ids - depth]
  end
  return ids
end

-- Which of the ids are in a collection; it is not asked while it is empty, as it mostly is.
local function scores_in(key, size, ids)
  return size > 0 and read('ZMSCORE', key, ids) or {}
end

local taken, dead, looked_at, mine = {}, {}, 0, {}
while #taken < n and looked_at < n + K do
  local ids = page(looked_at + 1, math.min(n - #taken, n + K - looked_at))
  if #ids == 0 then
    break
  end
  looked_at = looked_at + #ids
  local payloads = read('HMGET', tasks, ids)
  local in_working, in_delayed = read('ZMSCORE', working, ids), scores_in(delayed, waiting, ids)
  local in_rejected = scores_in(rejected, buried, ids)
  for index = 1, #ids do
    local id = ids[index]
    local elsewhere = (in_working[index] and not plan.stale[id]) or (in_delayed[index] and not plan.due[id])
      or in_rejected[index] or mine[id]
    if not payloads[index] then
      plan.missing[#plan.missing + 1] = id
    elseif not elsewhere then
      mine[id] = true
      local state = plan.returned[id] or read_pending(id)
      local reason = not state and 'its state is not a hash' or exhausted(state)
      if reason then
        dead[#dead + 1] = { id = id, state = state, reason = reason }
      else
        taken[#taken + 1] = { id = id, payload = payloads[index], state = state }
      end
    end
  end
end
local short = #taken < n
  and (#plan.stale_ids == K or #plan.due_ids == K or looked_at == n + K)
look_aside(plan.missing)

begin_writing(ARGV[6])
return_planned(plan)
if looked_at > 0 then
  redis.call('LTRIM', pending, 0, -(looked_at + 1))
end
bury(dead)
local alarm
drop_timer()
local reply, receipts, scores, deadlines, mark = { 'OK', '', short and 1 or 0, present }, {}, {}, {}, token()
for index = 1, #taken do
  local item = taken[index]
  local id, state = item.id, item.state
  local timeout, count = state.timeout, state.dequeue_count + 1
  local delivery = whole(count)
  local deadline = deadlines[timeout] or stamp(now + timeout)
  deadlines[timeout] = deadline -- mostly the same for all
  scores[2 * index - 1], scores[2 * index] = deadline, id
  transition(state, WORKING, 'claim', mark, 'last_dequeue_time', present, 'dequeue_count', delivery)
  receipts[index] = delivery .. ':' .. whole(#id) .. ':' .. id
  answer_task(reply, 6 * index - 2, id, item.payload, count, deadline, state)
end
variadic('ZADD', working, scores)
add('claimed', claimed, #taken)
add('requeued', requeued, plan.stale_count)
add('rejected', refused, #plan.dead + #dead)
trim(ARGV[6], #plan.dead + #dead)
if #taken == 0 then
  alarm = take_timer(willing)
end
hint(#taken == 0)
reply[2] = alarm and stamp(alarm) or ''
record('open', 'c' .. table.concat(receipts))
return reply
