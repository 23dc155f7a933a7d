-- Remove finished tasks. With a result, or on request, keep the state for a while. Only where claims are limited does this
-- make work for other consumers, so otherwise there is no hint.
-- KEYS: tasks working task counters pending wake groups lane
-- ARGV: lane nonce sequence, words per item (3 or 6); if 3, what all items share: status ttl result; then for each task:
--   id token dequeue_count, and if 6 its own status ttl result (ttl in ms, negative if there is no result, '' to keep
--   nothing)
-- returns: OK and a letter for each task: o ok, l claim lost, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  -- rarely
  return again(outcome, answer)
  -- end
end
local completed, refused = totals('completed', 'rejected')
local waiting -- for the end of another claim
local limited = features and string.find(features, 'l', 1, true)
if limited then
  -- rarely
  waiting = redis.call('LLEN', pending)
  -- end
end
local width = tonumber(ARGV[4])
local begin = width == 3 and 8 or 5
local ids, places, answers, seen, prefix = {}, {}, {}, {}, task .. ':'
for at = begin, #ARGV, width do
  ids[#ids + 1] = ARGV[at]
end
local scores, count = read('ZMSCORE', working, ids), 0
local grouped = features and string.find(features, 'g', 1, true)
local names = {} -- the groups of those that are done
local done, keys, revisions = {}, {}, {}
local live_text, live_score, live_token, live_count, revision -- the claim before: those of one call are mostly alike
for index = 1, #ids do
  local id, at, letter = ids[index], begin + (index - 1) * width, nil
  local score, token = scores[index], ARGV[at + 1]
  if score and not seen[id] then
    local key = prefix .. id
    local text, delivery, group = nil, ARGV[at + 2], nil
    if grouped then
      local values = redis.pcall('HMGET', key, 'claim', 'group')
      text, group = values.err and values or values[1], values[2]
    else
      text = redis.pcall('HGET', key, 'claim')
    end
    local is_same = text == live_text and score == live_score and token == live_token and delivery == live_count
    if type(text) == 'table' then
      -- rarely
      letter = mistyped(text) and 'x'
      -- end
    elseif is_same or is_live(score, parse_claim(text), token, delivery) then
      letter, seen[id], count = 'o', true, count + 1
      if token == '' then
        -- rarely
        revision, live_text = read_claim(id).revision, nil
        -- end
      elseif not is_same then
        revision = parse_claim(text).revision
        live_text, live_score, live_token, live_count = text, score, token, delivery
      end
      done[count], keys[count], places[count], revisions[count] = id, key, at, revision
      names[count] = group
    end
  end
  answers[index] = letter or (token == '' and 'u' or 'l')
end

if count == 0 then
  begin_writing()
end
variadic('HDEL', tasks, done) -- first, as this key was not read
variadic('ZREM', working, done)
local gone, refusals, time = {}, 0, nil
for index = 1, count do
  local key, at = keys[index], places[index]
  at = width == 3 and 5 or at + 3
  local status, ttl, revision = ARGV[at], ARGV[at + 1], revisions[index]
  if status == REJECTED then
    refusals = refusals + 1
  end
  if ttl == '' then
    gone[#gone + 1] = key
    redis.pcall('PUBLISH', key, whole(revision + 1) .. ' ' .. status)
  else
    time = time or stamp(clock())
    redis.call('HDEL', key, 'claim')
    local bare = string.match(ttl, '^-(.*)$')
    redis.call('HSET', key, 'status', status, 'revision', whole(revision + 1), 'release_time', time,
      unpack(bare and {} or { 'result', ARGV[at + 2] }))
    redis.pcall('PUBLISH', key, whole(revision + 1) .. ' ' .. status)
    expire(key, bare or ttl)
  end
end
remove_keys(gone)
add('completed', completed, count - refusals)
add('rejected', refused, refusals)
if grouped then
  -- rarely
  leave_finished(done, names)
  -- end
end
if touched or limited then
  -- rarely
  local left = available(not has_lines() and waiting or nil)
  if left > 0 then
    summon(left)
  end
  -- end
end
return leave(table.concat(answers))
