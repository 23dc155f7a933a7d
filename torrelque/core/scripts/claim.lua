-- Let schedules that are due add their tasks, return at most 20 stale and 20 due tasks to pending (as many due ones fewer as
-- schedules add), then claim up to n tasks for the caller. Expired tasks end.
-- KEYS: pending delayed working tasks task wake timer counters rejected missing groups lane
-- ARGV: lane nonce sequence n willing (how long the caller will go on waiting, in seconds; 0 if it does not wait), then the
--   maximum number of dead letters, if there is a cap
-- returns: SHARDED and the number of shards if the queue has shards and the caller assumes none. Otherwise OK, seconds until
--   the event that the caller now handles or '', 1 if a limit was reached before n tasks were found (else 0; in a list with
--   the schedules that need more times, if any do), the server's time, then for each task: id payload deadline (of a task
--   with a group, deadline, fence and group, separated by blanks), and its dequeue_count, attempt (the number of this
--   delivery since the task was enqueued or last redriven) and headers, separated by blanks; '' for a first delivery without
--   headers

local K = 20
local MOST = 210 -- ids that are read where tasks expire: with the stale and due ones, no more than 250
local n, willing, prefix = tonumber(ARGV[4]), tonumber(ARGV[5]), task .. ':'

local outcome, answer = enter()
if outcome == 'OK' then
  -- rarely
  -- A repeat returns the tasks of the first answer that are still claimed. If none is, the caller has to claim again.
  local reply = { 'OK', '', 0, present }
  for _, receipt in ipairs(receipts_in(answer)) do
    local id, count = receipt.id, receipt.count
    local score, payload = redis.call('ZSCORE', working, id), redis.call('HGET', tasks, id)
    local state = score and payload and read_state(id)
    if state and is_live(score, state.claim, own_token(), count) then
      local n = #reply
      reply[n + 1], reply[n + 2], reply[n + 3] = id, payload, stamp(tonumber(score))
      local group = redis.call('HMGET', state.key, 'fence', 'group')
      if group[1] and group[2] then
        reply[n + 3] = reply[n + 3] .. ' ' .. group[1] .. ' ' .. group[2]
      end
      reply[n + 4] = count .. ' ' .. whole(tonumber(count) - state.dequeue_base) .. ' ' .. (state.headers or '')
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

local claimed, requeued, refused, turns, level_turns, fence, recheck = totals('claimed', 'requeued', 'rejected', 'turn',
  'levels', 'fence', 'recheck')
recheck = recheck ~= '' and recheck
if number(claimed, 0) == 0 then
  -- rarely
  local shards = shards_of()
  if shards then
    return { 'SHARDED', shards }
  end
  local letters = forgotten_lines()
  if letters ~= '' then
    begin_writing(ARGV[6])
    redis.call('HSET', counters, 'uses', (features or '') .. letters)
    return { 'OK', '', 1, present } -- unrecorded: a repeat takes tasks
  end
  -- end
end
local stale = tonumber(redis.call('ZRANGE', working, 0, 0, 'WITHSCORES')[2])
local schedules, fired, wanted = has_used('s'), 0, nil
if schedules then
  -- rarely
  fired, wanted = fire_due()
  -- end
end
local due = tonumber(redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2])
local event = stale and due and math.min(stale, due) or stale or due

-- First, plan which tasks return to pending, if any.
local none = {}
local plan = { stale = none, due = none, stale_ids = none, due_ids = none, pushed = none, returned = none, dead = none,
  called_off = none, missing = {}, late = none, stale_count = 0 }
local returns, mine = event and event <= tonumber(present), {}
local returned_most, has_returned = false, false
local lines, pick, settle, final_look, write, next_fence -- what is known of the lines, and the functions that serve them
if has_lines() then
  -- rarely
  local till = next_held()
  if till then
    event = math.min(event or till, till)
    returns = event <= tonumber(present)
  end
  -- end
end
if (returns or recheck) and has_lines() then
  -- rarely
  -- A step of its own: what returns is written before lines are read.
  look()
  redis.call('ZCARD', rejected)
  local ended = plan_return(expired(working, K), expired(delayed, K - fired))
  look_aside(ended.missing)
  begin_writing(ARGV[6])
  local buried = return_planned(ended)
  add('requeued', requeued, ended.stale_count)
  add('rejected', refused, buried)
  refused = whole(number(refused, 0) + buried)
  trim(ARGV[6], buried)
  if recheck then
    recheck_some(recheck)
  end
  place_touched()
  returned_most = #ended.stale_ids == K or #ended.due_ids == K - fired or #ended.held == K
  returns, has_returned = false, true
  -- end
elseif returns then
  -- rarely
  plan = plan_return(expired(working, K), expired(delayed, K - fired))
  for _, item in ipairs(plan.called_off) do
    mine[item.id] = true
  end
  -- end
end

local bound = features and string.find(features, '[pl]') -- by a pause or limits
local strict
if bound then
  -- rarely
  n = permitted(n, #plan.stale_ids)
  strict = restrictions().strict
  -- end
end
if n > 0 and has_lines() then
  -- rarely
  lines = open_lines(n, strict, turns, level_turns, fence)
  pick, settle, final_look, write, next_fence = pick_ids, settle_id, look_back, write_lines, raise_fence
  -- end
end
local front = none
if not lines then
  front = redis.call('LRANGE', pending, -(n + 2), -1) -- two more than are wanted: whether any are left
end
local length = #front < n + 2 and #front -- of pending, once its end was seen

local expires, most = has_used('e'), n + K
if expires and n > 0 then
  most = math.max(most, MOST)
end
local taken, dead, late, looked_at = {}, {}, {}, 0
local keys, payloads, timeouts, states, names = {}, {}, {}, {}, {} -- of those that are taken
local strays = {} -- those that are in another line than their own
while #taken < n and looked_at < most do
  -- Ids in their order from the front of pending, as it will be once the planned ids are pushed.
  local count, ids, part = math.min(n - #taken, most - looked_at), {}, front
  if lines then
    ids = pick(lines, count)
  else
    if looked_at > 0 then
      part = none
      if not length or looked_at < length then
        part = redis.call('LRANGE', pending, -(looked_at + count), -(looked_at + 1))
        length = length or #part < count and looked_at + #part
      end
    end
    for index = #part, math.max(1, #part - count + 1), -1 do
      ids[#ids + 1] = part[index]
    end
    while length and #ids < count and plan.pushed[looked_at + 1 + #ids - length] do
      ids[#ids + 1] = plan.pushed[looked_at + 1 + #ids - length]
    end
  end
  if #ids == 0 then
    break
  end
  looked_at = looked_at + #ids
  local found = read('HMGET', tasks, ids)
  for index = 1, #ids do
    local id = ids[index]
    local key, state, place, line = prefix .. id, plan.returned[id], #taken + 1, nil
    if lines then
      line = lines.picked[index].name
    end
    if not found[index] then
      plan.missing[#plan.missing + 1] = id
    elseif not mine[id] then
      local values = state or not lines and redis.pcall('HMGET', key, 'status', 'timeout', 'dequeue_count', 'revision')
        or redis.pcall('HMGET', key, 'status', 'timeout', 'dequeue_count', 'revision', 'group')
      local elsewhere, timeout, expiry = false, values[2], nil
      if expires and not state and not values.err then
        -- rarely
        expiry = read_expiry(key)
        -- end
      end
      -- Usually the task is pending, was never delivered, and has no special fields: those come with a revision.
      if values[1] ~= PENDING or values[3] or values[4] or expiry or (lines and values[5] ~= (line or false)) then
        -- rarely
        -- A state that says pending is trusted. With another status, the id may also be in another collection.
        elsewhere = values[1] ~= PENDING and (
          (not plan.stale[id] and redis.call('ZSCORE', working, id))
          or (not plan.due[id] and redis.call('ZMSCORE', delayed, id)[1])
          or redis.call('ZMSCORE', rejected, id)[1]
        )
        local reason = not state and mistyped(values) and 'its state is not a hash'
        local more = not (state or reason)
          and redis.call('HMGET', key, 'max_dequeues', 'dequeue_base', 'headers', 'claim')
        state = state or more and {
          key = key,
          timeout = number(timeout, DEFAULT_TIMEOUT),
          dequeue_count = number(values[3], 0),
          revision = revision_of(values[4], parse_claim(more[4])),
          max_dequeues = number(more[1], nil),
          dequeue_base = number(more[2], 0),
          headers = more[3],
          expiry = expiry,
        }
        reason = reason or exhausted(state)
        if reason and not elsewhere then
          mine[id] = true
          dead[#dead + 1] = { id = id, state = state or nil, reason = reason }
          elsewhere = true
        elseif not elsewhere and is_late(state) then
          mine[id] = true
          late[#late + 1] = { id = id, state = state }
          elsewhere = true
        elseif not elsewhere and lines and values[5] ~= (line or false) then
          -- Another program moved it: a sweep of 0.9 knows no groups.
          mine[id], elsewhere = true, true
          if type(redis.pcall('LLEN', (line_of(id)))) ~= 'number' then
            dead[#dead + 1] = { id = id, state = state, reason = 'the list of its group has a wrong type' }
          else
            strays[#strays + 1] = id
          end
        end
        timeout = state and state.timeout
        -- end
      end
      if not elsewhere then
        mine[id] = true
        taken[place], keys[place], payloads[place], timeouts[place] = id, key, found[index], timeout
        states[place], names[place] = state, line
      end
    end
    if lines then
      settle(lines, index, id, taken[place])
    end
  end
end
local left -- pending afterwards, or lines with tasks, as far as that is known
if lines then
  local time
  left, time = final_look(lines)
  left = not rechecking and left or nil
  event = time and math.min(event or time, time) or event
end
redis.call('ZMSCORE', working, '') -- never an id: who may take tasks may do this, and an operator may not
local short = #taken < n
  and (#plan.stale_ids == K or #plan.due_ids == K - fired or looked_at == most or returned_most or rechecking
    or (lines and lines.is_short))
if not returns and not has_lines() then
  left = length and length - looked_at or looked_at <= n and 2 or nil
end

if returns or #dead > 0 or #late > 0 or #plan.missing > 0 then
  -- rarely
  if #plan.dead + #dead + #plan.late + #late > 0 then
    redis.call('ZCARD', rejected)
  end
  look_aside(plan.missing)
  begin_writing(ARGV[6])
  local buried = return_planned(plan) + #dead
  if looked_at > 0 and not lines then
    redis.call('LTRIM', pending, 0, -(looked_at + 1))
  end
  bury(dead)
  buried = buried + end_late(late)
  add('requeued', requeued, plan.stale_count)
  add('rejected', refused, buried)
  trim(ARGV[6], buried)
  -- end
else
  if looked_at == 0 or ARGV[6] then
    begin_writing(ARGV[6])
  end
  if looked_at > 0 and not lines then
    redis.call('LTRIM', pending, 0, -(looked_at + 1)) -- a removal as well
  end
end
local fields
if lines then
  fields = write(lines)
end
if #strays > 0 then
  -- rarely
  leave_groups(strays) -- a stale one is still counted there
  join_lines(strays, 'back')
  -- end
end
drop_timer()
local reply, receipts, scores, deadlines, marks = { 'OK', '', short and 1 or 0, present }, {}, {}, {}, {}
local first, run_count, run_length = 1, nil, nil -- of a run of alike receipts, mostly the only one
local function close_run(last)
  receipts[#receipts + 1] = table.concat({ run_count, run_length, last - first + 1, '' }, ':')
    .. table.concat(taken, '', first, last)
end
for index = 1, #taken do
  local id, key, timeout, state = taken[index], keys[index], timeouts[index], states[index]
  local delivery, revision, more = '1', '2', ''
  local deadline = deadlines[timeout]
  if not deadline then -- mostly it is the same for all
    local lease = number(timeout, DEFAULT_TIMEOUT)
    deadline = stamp(now + lease)
    deadlines[timeout], marks[timeout] = deadline, deadline .. ' ' .. own_token()
    event = math.min(event or math.huge, now + lease)
  end
  local mark = marks[timeout]
  if state then
    -- rarely
    local count = state.dequeue_count + 1
    delivery, revision = whole(count), whole(state.revision + 1)
    more = delivery .. ' ' .. whole(count - state.dequeue_base) .. ' ' .. (state.headers or '')
    mark = claim_text(deadline, own_token(), delivery, revision)
    if names[index] and mark ~= marks[timeout] then
      redis.call('HSET', key, 'revision', whole(state.revision))
    end
    -- end
  end
  scores[2 * index - 1], scores[2 * index] = deadline, id
  if names[index] then
    local text = next_fence(lines, names[index])
    redis.call('HSET', key, 'status', WORKING, 'claim', mark, 'last_dequeue_time', present, 'dequeue_count', delivery,
      'fence', text)
    deadline = deadline .. ' ' .. text .. ' ' .. names[index]
  elseif mark ~= marks[timeout] then
    redis.call('HSET', key, 'status', WORKING, 'claim', mark, 'last_dequeue_time', present, 'dequeue_count', delivery,
      'revision', whole(state.revision))
  else
    redis.call('HSET', key, 'status', WORKING, 'claim', mark, 'last_dequeue_time', present, 'dequeue_count', delivery)
  end
  redis.pcall('PUBLISH', key, revision .. ' ' .. WORKING)
  if delivery ~= run_count or #id ~= run_length then
    if run_count then
      close_run(index - 1)
    end
    run_count, run_length, first = delivery, #id, index
  end
  local at = 4 * index
  reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = id, payloads[index], deadline, more
end
variadic('ZADD', working, scores)
if lines then
  -- rarely
  write_counters(lines, fields, claimed, #taken)
  -- end
else
  add('claimed', claimed, #taken)
end
if bound then
  -- rarely
  count_deliveries(#taken)
  -- end
end
if wanted and #wanted > 0 then
  -- rarely
  reply[3] = { reply[3], unpack(wanted) }
  -- end
end
if #taken == 0 then
  -- rarely
  local alarm = take_timer(willing)
  reply[2] = alarm and stamp(alarm) or ''
  -- end
end
hint(#taken == 0, left, not (returns or bound or has_returned or schedules) and event)
if run_count then
  close_run(#taken)
end
record('open', 'c' .. table.concat(receipts))
return reply
