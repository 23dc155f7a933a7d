-- Settle a call whose reply will not come: undo it if it was a claim, and make sure that it does nothing if it has not yet
-- arrived.
-- KEYS: pending delayed working tasks task wake timer counters groups lane
-- ARGV: lane nonce sequence
-- returns: none if the lane is gone or was used for a later call; aborted; or finished and the call's recorded answer

local record_text = redis.call('GET', lane_key)
local sequence, nonce, phase, answer
if record_text then
  sequence, nonce, phase, answer = string.match(record_text, '^(%d+) (%S+) (%a+) (.*)$')
end
local ahead = nonce == ARGV[2] and tonumber(ARGV[3]) - tonumber(sequence) or -1
if ahead < 0 then
  return { 'none' }
end
totals()
look(true) -- producers do this as well
if ahead == 0 and phase == 'open' and string.sub(answer, 1, 1) ~= 'c' then
  begin_writing()
  drop_timer()
  hint()
  expire(lane_key, LANE_TTL) -- a write: who waits until this one is durable knows that the call is
  return { 'finished', string.sub(answer, 2) }
end

local items = {}
if ahead == 0 and phase == 'open' then
  for _, receipt in ipairs(receipts_in(answer)) do
    local score = redis.call('ZSCORE', working, receipt.id)
    local state = score and read_claim(receipt.id)
    if state and is_live(score, state.claim, own_token(), receipt.count) then
      items[#items + 1] = { id = receipt.id, state = state }
    end
  end
end
local kept, called_off = split_called_off(items)
begin_writing()
give_back(kept, called_off)
drop_timer()
hint()
record('closed', '')
return { 'aborted' }
