-- Describe a queue and some of its tasks at one moment, or schedules, or groups.
-- KEYS: pending dequeueing undequeued working delayed tasks task wake rejected missing counters schedules schedule groups
-- ARGV: deep (also search the lists for the ids, which takes time in proportion to their length) or shallow, then the ids
-- returns: 1 if no task is left, 1 if there is a hint, how many ids are marked as undequeued, then for each id a list:
--   1 if it has a payload, how often it is in pending and in dequeueing, 1 if it is in working (2: without a finite
--   deadline), in delayed, in rejected, the type of its state, the state's status or '', 1 if the state has a result, 1 if
--   the state expires, 1 if it was set aside, the letters of features that its state uses and the queue does not, and 1 if it
--   is claimed and its group does not count it. Of schedules, whose ids follow the word schedules instead: 1 if the queue
--   knows that it has some or has none, then for each id 1 if it is listed, the type of its key, 1 if it has a payload, 1 if
--   it expires. Of groups, whose names follow the word groups, for each: in how many of the indexes it is, in how many it
--   should be, 1 if it waits for nothing. After the word members, working or rejected, a group and a cursor: the next cursor
--   ('' if the key has a wrong type), then the ids among some that the group counts and that are no claims or dead letters
--   of its own

local listed, prefix = totals('schedules', 'schedule')
if ARGV[1] == 'schedules' then
  local used = has_used('s') and listed == schedules and prefix == schedule
  local some = redis.call('ZCARD', schedules) > 0
  local reply = { (some and used or not some and not has_used('s')) and 1 or 0 }
  for at = 2, #ARGV do
    local key = schedule .. ':' .. ARGV[at]
    local kind = redis.call('TYPE', key).ok
    reply[at] = { redis.call('ZSCORE', schedules, ARGV[at]) and 1 or 0, kind,
      kind == 'hash' and redis.call('HEXISTS', key, 'payload') or 0, redis.call('PTTL', key) >= 0 and 1 or 0 }
  end
  return reply
end

if ARGV[1] == 'groups' then
  local reply = {}
  for at = 2, #ARGV do
    reply[at - 1] = { index_faults(ARGV[at]) }
  end
  return reply
end

if ARGV[1] == 'members' then
  local kind, name = ARGV[2], ARGV[3]
  local part = redis.pcall('SSCAN', group_key(kind, name), ARGV[4], 'COUNT', 250)
  if mistyped(part) then
    return { '' }
  end
  local reply = { part[1] }
  for _, id in ipairs(part[2]) do
    reply[#reply + 1] = is_stray(kind, name, id) and id or nil
  end
  return reply
end

local function occurrences(list, id)
  local found = ARGV[1] == 'deep' and redis.pcall('LPOS', list, id, 'COUNT', 0) or {}
  return mistyped(found) and 0 or #found
end

-- How often an id is in pending, and in the line of its group or level.
local function waits(id)
  local line = ARGV[1] == 'deep' and line_of(id) or pending
  return occurrences(pending, id) + (line == pending and 0 or occurrences(line, id))
end

local ids = {}
for at = 2, #ARGV do
  ids[#ids + 1] = ARGV[at]
end
local left = redis.call('HLEN', tasks) + redis.call('LLEN', pending) + redis.call('LLEN', dequeueing)
  + redis.call('ZCARD', working) + redis.call('ZCARD', delayed) + redis.call('ZCARD', rejected)
if has_lines() then
  left = left + count_lines() + size_of('ZCARD', groups .. ':blocked') + size_of('ZCARD', groups .. ':held')
end
local reply = { left == 0 and 1 or 0, redis.call('EXISTS', wake), redis.call('SCARD', undequeued) }
local due, dead = read('ZMSCORE', delayed, ids), read('ZMSCORE', rejected, ids)
local aside = read('ZMSCORE', missing, ids)
for index, id in ipairs(ids) do
  -- ZSCORE instead of ZMSCORE: every call that ends a claim begins with ZMSCORE, so users without permission for it are
  -- stopped before anything has changed.
  local deadline = redis.call('ZSCORE', working, id)
  local kind, status, result, letters = redis.call('TYPE', state_key(id)).ok, '', 0, ''
  if kind == 'hash' then
    status = redis.call('HGET', state_key(id), 'status') or ''
    result = redis.call('HEXISTS', state_key(id), 'result')
    letters = unnoted(id)
  end
  reply[#reply + 1] = {
    redis.call('HEXISTS', tasks, id), waits(id), occurrences(dequeueing, id),
    not deadline and 0 or string.find(deadline, 'inf') and 2 or 1, due[index] and 1 or 0, dead[index] and 1 or 0,
    kind, status, result, redis.call('PTTL', state_key(id)) >= 0 and 1 or 0,
    aside[index] and 1 or 0, letters, deadline and is_uncounted(id) and 1 or 0,
  }
end
return reply
