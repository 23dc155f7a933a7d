-- A step of deleting a queue without tasks: remove its other keys. Safe to repeat.
-- KEYS: pending dequeueing undequeued working delayed tasks task wake timer counters epoch rejected missing workers schedules schedule groups lane
-- ARGV: states, schedules, lanes, groups or rest; then ids, numbers of lanes, or what follows the prefix in a group's keys, at most 250
-- returns: 0 if it is done, 1 if there is more, 2 if there are tasks or schedules again, so that the rest stays

local MOST = 250
local commands = {}

-- Whether the key belongs to another queue, whose name begins like the keys of this queue's states.
local function is_anothers(id)
  local colon = string.find(id, ':', 1, true)
  while colon do
    if redis.call('EXISTS', state_key(string.sub(id, 1, colon - 1)) .. ':counters') == 1 then
      return true
    end
    colon = string.find(id, ':', colon + 1, true)
  end
  return false
end

-- Remove the hashes with this prefix and the given ids that `is_left` finds to be left over.
local function remove_leftovers(prefix, is_left)
  local gone = {}
  for index = 2, #ARGV do
    local id = ARGV[index]
    local key = prefix .. ':' .. id
    if redis.call('TYPE', key).ok == 'hash' and is_left(key, id) then
      gone[#gone + 1] = key
    end
  end
  remove_keys(gone)
  return 0
end

-- Kept results, and states that are left over.
function commands.states()
  return remove_leftovers(task, function(key, id)
    return redis.call('HEXISTS', key, 'status') == 1 and redis.call('HEXISTS', tasks, id) == 0 and not is_anothers(id)
  end)
end

-- Ranks that shards have seen of schedules which are elsewhere, or removed.
function commands.schedules()
  return remove_leftovers(schedule, function(key)
    return redis.call('HEXISTS', key, 'revision') == 1 and redis.call('HEXISTS', key, 'payload') == 0
  end)
end

function commands.lanes()
  local gone = {}
  for index = 2, #ARGV do
    gone[index - 1] = lane .. ':' .. ARGV[index]
  end
  remove_keys(gone)
  return 0
end

-- The keys of single groups, which no index names any more. Those of a queue whose name begins like them stay.
function commands.groups()
  local gone = {}
  for index = 2, #ARGV do
    if redis.call('EXISTS', groups .. ':counters') == 0 then
      gone[#gone + 1] = groups .. ':' .. ARGV[index]
    end
  end
  remove_keys(gone)
  return 0
end

function commands.rest()
  if count_lines() + redis.call('HLEN', tasks) + redis.call('LLEN', dequeueing)
    + redis.call('ZCARD', working) + redis.call('ZCARD', delayed) + redis.call('ZCARD', rejected)
    + redis.call('ZCARD', schedules) > 0 then
    return 2
  end
  if redis.call('SCARD', undequeued) > MOST then
    redis.call('SPOP', undequeued, MOST)
    return 1
  end
  for _, key in ipairs({ undequeued, missing, workers, wake, timer, epoch, counters }) do
    redis.call('DEL', key) -- one by one, as a right is of one key
  end
  for _, index in ipairs({ '', ':blocked', ':held', ':idle', ':limits', ':arrivals' }) do
    redis.call('DEL', groups .. index)
  end
  return 0
end

totals()
return commands[ARGV[1]]()
