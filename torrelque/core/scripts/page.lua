-- Take a step through the ids of a queue.
-- KEYS: delayed working tasks rejected
-- ARGV: the collection (tasks, working, delayed or rejected), cursor, approximate number of ids
-- returns: the next cursor ('0' at the end), then the ids

local keys = { tasks = tasks, working = working, delayed = delayed, rejected = rejected }
local command = ARGV[1] == 'tasks' and 'HSCAN' or 'ZSCAN'
local part = redis.call(command, keys[ARGV[1]], ARGV[2], 'COUNT', ARGV[3])
local reply = { part[1] }
for index = 1, #part[2], 2 do
  reply[#reply + 1] = part[2][index]
end
return reply
