-- Remove a pending or delayed task. If the task is worked on, do what the caller says: end its claim and remove it, or ask
-- its holder to end it. This is the only verb whose cost grows with the queue: it searches pending, or the list of the
-- task's group or level, for the id.
-- KEYS: pending delayed working tasks task wake timer counters cancel groups lane
-- ARGV: lane nonce sequence id running (end or ask; '' leaves a task alone that is worked on)
-- returns: OK and o removed, c it was worked on and is ended or asked for, u unknown, x state of a wrong type

local outcome, answer = enter()
if outcome then
  return again(outcome, answer)
end
totals()
look()
local id, running = ARGV[4], ARGV[5] or ''
local known, claimed = redis.call('HEXISTS', tasks, id) == 1, redis.call('ZSCORE', working, id)
local state = read_claim(id)
local item = { id = id, state = state }
local list = pending
if has_lines() then
  -- rarely
  local key, name = line_of(id)
  if known and redis.call('LLEN', key) > 0 and name then
    touch(name)
  end
  list = key
  -- end
end

begin_writing()
local letter = 'u'
if not state then
  letter = 'x'
elseif known and claimed and running ~= '' then
  letter = 'c'
  if running == 'ask' then
    if not has_used('c') then
      redis.call('HSET', counters, 'uses', (features or '') .. 'c')
    end
    redis.call('HSET', state.key, 'cancel_time', present)
  else
    leave_working({ id })
    remove_cancelled({ item })
  end
  redis.pcall('PUBLISH', cancel, running .. ' ' .. id) -- for workers to look at the claim at once
elseif known and not claimed and (redis.call('ZREM', delayed, id) == 1 or redis.call('LREM', list, 0, id) > 0) then
  remove_cancelled({ item })
  letter = 'o'
end
hint()
return leave(letter)
