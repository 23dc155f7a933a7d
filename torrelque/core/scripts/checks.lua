-- What an audit checks of groups: for `inspect` and `repair`. prelude.lua includes this file. It writes nothing.

-- What is wrong with where a group is: in how many indexes it is, in how many it should be, and 1 if it waits for nothing.
local function index_faults(name)
  local count, scores = 0, {}
  for at, key in ipairs({ groups, groups .. ':blocked', groups .. ':held' }) do
    scores[at] = redis.call('ZSCORE', key, name)
    count = count + (scores[at] and 1 or 0)
  end
  read_arrival(name)
  local index, waiting = read_index(name, nil, true), size_of('LLEN', group_key('pending', name))
  if (name == 'high' or name == 'low') and redis.call('EXISTS', groups .. ':counters') == 1 then
    return count, count, 0 -- the level of a queue whose name begins like this key
  end
  local waits = scores[2] or (scores[3] and tonumber(scores[3]) > now)
  local rechecked = redis.call('HMGET', counters, 'recheck')[1]
  local stuck = waits and index == 'ready' and (not rechecked or rechecked == '')
  return count, waiting > 0 and 1 or 0, stuck and 1 or 0
end

-- 1 if an id is among those that a group counts, 0 if not, nil if the key has a wrong type.
local function is_member(kind, name, id)
  local found = redis.pcall('SISMEMBER', group_key(kind, name), id)
  if type(found) ~= 'number' and mistyped(found) then
    return nil
  end
  return found
end

-- Whether a group counts a claim or a dead letter (`kind`) that is none of its own.
local function is_stray(kind, name, id)
  local score = redis.call('ZSCORE', kind == 'working' and working or rejected, id)
  local _, own = line_of(id)
  return is_member(kind, name, id) == 1 and not (score and own == name)
end

-- Whether the group of a claimed task does not count it.
local function is_uncounted(id)
  local _, name = line_of(id)
  return has_used('g') and name and is_member('working', name, id) == 0
end
