-- Add tasks to the back of pending, or to delayed. If the id of a task is already queued, nothing changes for it.
-- KEYS: pending delayed working tasks task wake timer counters lane
-- ARGV: lane nonce sequence, words per item (2 or 6); if 2, what all items share: timeout delay max_dequeues headers (the last
--   three may be ''); then for each task: id payload, and if 6 its own timeout delay max_dequeues headers; then, in a queue
--   with shards, the layout's generation
-- returns: OK and a letter for each task: n new, e existing; RESHARDED if another generation is recorded; SHARDED and the
--   number of shards if the queue has shards and the caller assumes none

local outcome, answer = enter()
if outcome then
  -- rarely
  return again(outcome, answer)
  -- end
end
local enqueued, generation = totals('enqueued', 'generation')
local width = tonumber(ARGV[4])
local begin = width == 2 and 9 or 5
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

local prefix, states, any = task .. ':', {}, nil
for index = 1, count do
  states[index] = prefix .. ARGV[begin + (index - 1) * width]
end
any = exist(states) -- mostly none of the ids has ever been used, and none need be looked at alone
local answers, fresh, payloads, pushed, later, seen = {}, {}, {}, {}, {}, {}
for index = 1, count do
  local at = begin + (index - 1) * width
  local id, delay = ARGV[at], ARGV[width == 2 and 6 or at + 3]
  -- HEXISTS instead of HMGET, because users that may only enqueue have no permission to read payloads.
  local queued = any and redis.call('EXISTS', states[index]) == 1 and redis.call('HEXISTS', tasks, id) == 1
  if queued or seen[id] then
    answers[index] = 'e'
  else
    local place = #fresh + 1
    answers[index], seen[id], fresh[place] = 'n', true, index
    payloads[2 * place - 1], payloads[2 * place] = id, ARGV[at + 1]
    if delay == '' then
      pushed[#pushed + 1] = id
    else
      later[#later + 1] = stamp(now + tonumber(delay))
      later[#later + 1] = id
    end
  end
end

-- The first write needs memory. On a full server, or on a key of a wrong type, the script fails here with nothing done.
redis.call('LLEN', pending)
if #later > 0 then
  redis.call('ZCARD', delayed)
end
variadic('HSET', tasks, payloads)
if any then
  -- rarely
  local finished = {}
  for place, index in ipairs(fresh) do
    finished[place] = states[index]
  end
  remove_keys(finished) -- a finished result of the same id must not expire under the new task
  -- end
end
for place = 1, #fresh do
  local index = fresh[place]
  local key, at = states[index], width == 2 and 5 or begin + (index - 1) * width + 2
  local timeout, limit, headers = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  local status = ARGV[at + 1] == '' and PENDING or DELAYED
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
