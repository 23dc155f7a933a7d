-- Pauses and limits: how many tasks consumers may take, and when they may take more. prelude.lua includes this file.

-- When a pause ends, by its record: infinite if it lasts until somebody resumes the queue; nil if none is in force.
local function in_force(uses, till)
  if uses and till and string.find(uses, 'p', 1, true) then
    till = till == 'inf' and math.huge or number(till, 0)
    return till > now and till or nil
  end
end

-- Set the rate of limits, if there is one: `count` deliveries per period in microseconds.
local function set_rate(limits, count, period, burst)
  count, period = number(count, 0), number(period, 0)
  if burst and count >= 1 and period >= 1 then
    limits.burst, limits.interval = burst, math.ceil(period / count)
  end
end

-- The limits of a queue, or a shard's share of them: `slots` for claims at once; `interval` between deliveries in
-- microseconds, the `burst`, and the theoretical arrival time of the next delivery (`arrival`, GCRA). `values`: uses, limits,
-- arrival, shards. Each shard gets at least 1 of what is divided.
local function parse_limits(values, key)
  local limits, shards = { arrival = number(values[3], 0) }, 1
  if not string.find(values[1] or '', 'l', 1, true) then
    return limits
  end
  for count in string.gmatch(values[4] or '', '%d+') do
    shards = math.max(shards, tonumber(count)) -- also of former shards, which may still have tasks
  end
  local shard = tonumber(string.match(key, '^.*:(%d+)}') or 0)
  local function share(text)
    local total = number(text, 0)
    return total >= 1 and math.max(1, math.floor(total / shards) + (shard < total % shards and 1 or 0)) or nil
  end
  local slots, count, period, burst = string.match(values[2] or '', '^(%S+) (%S+) (%S+) (%S+)')
  limits.slots = share(slots)
  set_rate(limits, count, number(period, 0) * shards, share(burst))
  limits.strict = string.find(values[2] or '', ' strict$') and true
  return limits
end

local function microseconds(time)
  return math.floor(time * 1000000 + 0.5)
end

-- How far the arrival time is ahead of now. It can be ahead of a whole burst only after the limits or the clock changed.
local function ahead(limits)
  return math.max(0, math.min(limits.arrival - microseconds(now), limits.burst * limits.interval))
end

-- How many tasks consumers may take now by these limits, if `claimed` are claimed, and when they may take more without the
-- end of a claim; nil if there is no such time.
local function allowed_by(limits, claimed)
  local count, time = math.huge, nil
  if limits.slots then
    count = math.max(0, limits.slots - claimed)
  end
  if limits.interval then
    local left = limits.burst - math.ceil(ahead(limits) / limits.interval)
    count = math.min(count, left)
    if left < 1 then
      time = (microseconds(now) + ahead(limits) - (limits.burst - 1) * limits.interval) / 1000000
    end
  end
  return count, time
end

local pause -- when it ends, false if there is none; nil until it was read
local limits -- those in force, once they were read

local function restrictions()
  if not limits then
    local values = redis.call('HMGET', counters, 'limits', 'arrival', 'shards', 'paused')
    limits = parse_limits({ features, unpack(values, 1, 3) }, counters)
    pause = in_force(features, values[4])
  end
  return limits, pause
end

-- How many tasks consumers may take now, of those that they want or that are there. `freed`: claims that are about to end.
local function permitted(count, freed)
  local limits, pause = restrictions()
  local claimed = limits.slots and redis.pcall('ZCARD', working) -- hints cannot fail
  claimed = type(claimed) == 'number' and claimed or 0
  return pause and 0 or math.min(count, (allowed_by(limits, claimed - (freed or 0))))
end

local function set_arrival(time)
  limits.arrival = time
  redis.call('HSET', counters, 'arrival', whole(time))
end

-- Count deliveries for the rate.
local function count_deliveries(count)
  local limits = restrictions()
  if limits.interval then
    local time = microseconds(now) + ahead(limits)
    if count > 0 or time < limits.arrival then
      set_arrival(time + count * limits.interval)
    end
  end
end

-- How many microseconds sooner the next delivery may take place if these deliveries were none, except for the time in which
-- others could not take place because of them. Deliveries before the limits were set were not counted.
local function spare(limits, items, since)
  local spared, counts = 0, {}
  for _, item in ipairs(items) do
    local time = microseconds(number(redis.call('HMGET', item.state.key, 'last_dequeue_time')[1], 0))
    counts[time] = (counts[time] or 0) + 1
  end
  for time, count in pairs(counts) do
    local left = count * limits.interval - math.max(0, microseconds(now) - time)
    spared = spared + (time > since and math.max(0, left) or 0)
  end
  return spared
end

local function uncount_deliveries(items)
  local limits = restrictions()
  local spared = limits.interval
    and spare(limits, items, number(redis.call('HMGET', counters, 'limited_since')[1], 0)) or 0
  if spared > 0 then
    set_arrival(microseconds(now) + math.max(0, ahead(limits) - spared))
  end
end
