-- Add tasks to the back of pending, or to delayed. A task id that is queued already changes nothing.
-- KEYS: pending delayed working tasks task wake timer counters lane
-- ARGV: lane nonce sequence, then for each task: id payload timeout delay max_dequeues headers (the last three may be ''),
--   then, in a queue of several shards, the generation of their number
-- returns: OK and a letter for each task: n new, e existing; RESHARDED if another generation is recorded; SHARDED and how many if
--   the queue has several shards, of which the caller knows nothing

local outcome, answer = enter()
if outcome then
  -- rarely
  return again(outcome, answer)
  -- end
end
local enqueued, generation = totals('enqueued', 'generation')
if (#ARGV - 3) % 6 == 1 and number(generation, 0) ~= tonumber(ARGV[#ARGV]) then
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

local answers, fresh, payloads, states, pushed, later, seen = {}, {}, {}, {}, {}, {}, {}
for at = 4, #ARGV - 5, 6 do
  states[#states + 1] = state_key(ARGV[at])
end
local any = exist(states) -- mostly none of the ids has ever been used, and none need be looked at alone
for index = 1, #states do
  local at = 6 * index - 2
  local id = ARGV[at]
  -- Not HMGET: who may only enqueue needs no right to read payloads.
  local queued = any and redis.call('EXISTS', states[index]) == 1 and redis.call('HEXISTS', tasks, id) == 1
  if queued or seen[id] then
    answers[index] = 'e'
  else
    answers[index] = 'n'
    seen[id] = true
    fresh[#fresh + 1] = index
    payloads[2 * #fresh - 1], payloads[2 * #fresh] = id, ARGV[at + 1]
    if ARGV[at + 3] == '' then
      pushed[#pushed + 1] = id
    else
      later[#later + 1] = stamp(now + tonumber(ARGV[at + 3]))
      later[#later + 1] = id
    end
  end
end

-- Begins with a write that grows: on a full server, or on a key of a wrong type, it fails here, with nothing done.
redis.call('LLEN', pending)
if #later > 0 then
  redis.call('ZCARD', delayed)
end
variadic('HSET', tasks, payloads)
if any then
  local finished = {}
  for place, index in ipairs(fresh) do
    finished[place] = states[index]
  end
  remove_keys(finished) -- a finished result of the same id must not expire under the new task
end
for _, index in ipairs(fresh) do
  local key, at = states[index], 6 * index - 2
  local timeout, limit, headers = ARGV[at + 2], ARGV[at + 4], ARGV[at + 5]
  local status = ARGV[at + 3] == '' and PENDING or DELAYED
  if limit == '' and headers == '' then
    redis.call('HSET', key, 'status', status, 'timeout', timeout, 'enqueue_time', present)
  else
    local fields = { 'status', status, 'timeout', timeout, 'enqueue_time', present }
    if limit ~= '' then
      fields[7], fields[8] = 'max_dequeues', limit
    end
    if headers ~= '' then
      fields[#fields + 1], fields[#fields + 2] = 'headers', headers
    end
    redis.call('HSET', key, unpack(fields))
  end
  redis.pcall('PUBLISH', key, '1 ' .. status)
end
local left
for first = 1, #pushed, CHUNK do
  left = redis.call('LPUSH', pending, unpack(pushed, first, math.min(first + CHUNK - 1, #pushed)))
end
variadic('ZADD', delayed, later)
add('enqueued', enqueued, #fresh)
hint(false, left)
return leave(table.concat(answers))
