-- Add tasks to the back of pending, or to delayed. A task id that is queued already changes nothing.
-- KEYS: pending delayed working tasks task wake timer counters lane
-- ARGV: lane nonce sequence, then for each task: id payload timeout delay max_dequeues headers (the last three may be ''),
--   then, in a queue of several shards, how many there are
-- returns: OK and a letter for each task: n new, e existing; RESHARDED if there is another number of shards by now

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
local shards = (#ARGV - 3) % 6 == 1 and redis.call('HGET', counters, 'shards')
if shards and shards ~= ARGV[#ARGV] then
  return { 'RESHARDED' }
end
look()
local enqueued = total('enqueued')

local answers, fresh, payloads, states, pushed, later, seen = {}, {}, {}, {}, {}, {}, {}
for at = 4, #ARGV - 5, 6 do
  states[#states + 1] = state_key(ARGV[at])
end
local any = exist(states) -- mostly none of the ids has ever been used, and none need be looked at alone
for at = 4, #ARGV - 5, 6 do
  local id = ARGV[at]
  -- Not HMGET: who may only enqueue needs no right to read payloads.
  local queued = any and redis.call('EXISTS', state_key(id)) == 1 and redis.call('HEXISTS', tasks, id) == 1
  if queued or seen[id] then
    answers[#answers + 1] = 'e'
  else
    answers[#answers + 1] = 'n'
    seen[id] = true
    fresh[#fresh + 1] = at
    payloads[#payloads + 1] = id
    payloads[#payloads + 1] = ARGV[at + 1]
    if ARGV[at + 3] == '' then
      pushed[#pushed + 1] = id
    else
      later[#later + 1] = stamp(now + tonumber(ARGV[at + 3]))
      later[#later + 1] = id
    end
  end
end

-- Begins with a write that grows: on a full server it fails here, with nothing done.
variadic('HSET', tasks, payloads)
if any then
  local finished = {}
  for index, at in ipairs(fresh) do
    finished[index] = state_key(ARGV[at])
  end
  remove_keys(finished) -- a finished result of the same id must not expire under the new task
end
for _, at in ipairs(fresh) do
  local key = state_key(ARGV[at])
  local status = ARGV[at + 3] == '' and PENDING or DELAYED
  local fields = { 'status', status, 'timeout', ARGV[at + 2], 'enqueue_time', present }
  if ARGV[at + 4] ~= '' then
    fields[7], fields[8] = 'max_dequeues', ARGV[at + 4]
  end
  if ARGV[at + 5] ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'headers', ARGV[at + 5]
  end
  redis.call('HSET', key, unpack(fields))
  redis.pcall('PUBLISH', key, '1 ' .. status)
end
variadic('LPUSH', pending, pushed)
variadic('ZADD', delayed, later)
add(enqueued, #fresh)
hint()
return leave(table.concat(answers))
