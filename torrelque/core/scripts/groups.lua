-- Take a step through the groups in one of the indexes, or those with claimed tasks only.
-- KEYS: pending working task counters groups
-- ARGV: the collection (groups, blocked, held or working), cursor, approximate number
-- returns: the next cursor ('0' at the end), then for each group: name, how many tasks wait, how many are claimed, and its
--   score: its turn, since when it is blocked, or until when it is held (Unix time, or inf); '' for working

totals()
local key = ARGV[1] == 'working' and working or ARGV[1] == 'groups' and groups or groups .. ':' .. ARGV[1]
local part = redis.call('ZSCAN', key, ARGV[2], 'COUNT', ARGV[3])
local reply, seen = { part[1] }, {}
for at = 1, #part[2], 2 do
  local name, score, _ = part[2][at], part[2][at + 1], nil
  if key == working then
    _, name = line_of(name)
    score = ''
  end
  if name and not seen[name] then
    seen[name] = true
    local waiting = size_of('LLEN', group_key('pending', name))
    if key ~= working or waiting == 0 then
      local n = #reply
      reply[n + 1], reply[n + 2] = name, waiting
      reply[n + 3], reply[n + 4] = size_of('SCARD', group_key('working', name)), score
    end
  end
end
return reply
