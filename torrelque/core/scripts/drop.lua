-- Let the lanes of a client that makes no more calls expire. A late request finds no lane, and does nothing.
-- KEYS: counters lane
-- ARGV: for each lane its number and its nonce
-- returns: how many there were; another client's lane with the same number stays

totals()
local dropped = 0
for at = 1, #ARGV, 2 do
  local key = lane .. ':' .. ARGV[at]
  local record = redis.pcall('GET', key)
  if type(record) == 'string' then
    local _, nonce = string.match(record, '^(%d+) (%S+) (%a+) (.*)$')
    if nonce == ARGV[at + 1] then
      expire(key, 1)
      dropped = dropped + 1
    end
  end
end
return dropped
