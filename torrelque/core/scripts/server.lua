-- What depends on the server's time: the clock, and expiry. Tests replace this file with their own clock.

local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function expire(key, milliseconds)
  redis.call('PEXPIRE', key, milliseconds)
end

local function put(key, value, milliseconds)
  redis.call('SET', key, value, 'PX', milliseconds)
end
