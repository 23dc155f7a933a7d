-- A step through the workers that announced themselves, also those that were not seen for long.
-- KEYS: workers
-- ARGV: cursor, roughly how many
-- returns: the next cursor ('0' at the end), the time, then a list with the id and the announcement of each

local part = redis.call('HSCAN', workers, ARGV[1], 'COUNT', ARGV[2])
return { part[1], present, part[2] }
