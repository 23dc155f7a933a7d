-- Take a step through the workers' announcements, including expired ones.
-- KEYS: workers
-- ARGV: cursor, approximate number
-- returns: the next cursor ('0' at the end), the time, then a list with the id and the announcement of each worker

local part = redis.call('HSCAN', workers, ARGV[1], 'COUNT', ARGV[2])
return { part[1], present, part[2] }
