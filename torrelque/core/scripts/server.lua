-- What the scripts take from the server itself: its time, and expiry. Tests put a clock of their own here.

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
