-- Lanes make calls safe to repeat. prelude.lua includes this file.
--
-- ARGV begins with the lane's number, the lane's nonce and the call's sequence. An empty number means no lane: the call is
-- part of the user's own pipeline.

local lane_key = lane .. ':' .. (ARGV[1] or '')

local function own_token()
  return ARGV[1] .. ':' .. ARGV[2] .. ':' .. ARGV[3]
end

-- Returns nil if the call is new. Otherwise returns its outcome, and for a repeat the recorded answer.
local function enter()
  if ARGV[1] == '' then
    return nil
  end
  local record = redis.call('GET', lane_key)
  if not record then
    return 'NOLANE'
  end
  local sequence, nonce, phase, at = string.match(record, '^(%d+) (%S+) (%a+) ()')
  if nonce ~= ARGV[2] then
    return 'NOLANE'
  end
  local newer_by = tonumber(ARGV[3]) - tonumber(sequence)
  if newer_by > 0 then
    return nil
  elseif newer_by < 0 then
    return 'LATE'
  elseif phase == 'closed' then
    return 'CLOSED'
  end
  return 'OK', string.sub(record, at)
end

-- The reply to a call that is not new.
local function again(outcome, answer)
  if outcome == 'OK' then
    expire(lane_key, LANE_TTL)
    return { 'OK', string.sub(answer, 2) }
  end
  return { outcome }
end

-- The reply to a call that is refused. In the user's own pipeline it is an error.
local function refuse(outcome, shards)
  if ARGV[1] ~= '' then
    return { outcome, shards }
  end
  return redis.error_reply(outcome .. ' the queue has another number of shards, nothing was changed')
end

-- The ids that a recorded claim took, each with its dequeue_count: runs of ids that have both that and their length in common.
local function receipts_in(answer)
  local receipts, at = {}, 2
  while at <= #answer do
    local count, length, times, first = string.match(answer, '^(%-?%d+):(%d+):(%d+):()', at)
    at = first + length * times
    for first = first, at - 1, length do
      receipts[#receipts + 1] = { id = string.sub(answer, first, first + length - 1), count = count }
    end
  end
  return receipts
end

local function record(phase, answer)
  put(lane_key, ARGV[3] .. ' ' .. ARGV[2] .. ' ' .. phase .. ' ' .. answer, LANE_TTL)
end

-- Make the last write of a script, and its reply. The answers of all verbs except claim are one letter per item.
local function leave(answer)
  if ARGV[1] ~= '' then
    record('open', '-' .. answer)
    return { 'OK', answer }
  elseif answer == 'n' or answer == 'e' or answer == 'r' or answer == 'o' then
    return 1
  elseif ARGV[2] == 'raise' then
    return redis.error_reply('LEASELOST the claim on the task is no longer live, nothing was changed')
  end
  return 0
end
