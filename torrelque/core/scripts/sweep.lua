-- Return stale or due tasks to pending, or end expired ones at the front of pending and its levels, at most 250 per call.
-- Expired tasks of groups end when it is their turn.
-- KEYS: pending delayed working tasks task wake timer counters rejected missing groups lane
-- ARGV: kind (stale, due or expired), then the maximum number of dead letters, if there is a cap
-- returns: how many were returned or ended, 1 if there may be more

local requeued, refused = totals('requeued', 'rejected')
look()
redis.call('ZCARD', rejected)
local stale = ARGV[1] == 'stale' and expired(working, 250) or {}
local due = ARGV[1] == 'due' and expired(delayed, 250) or {}
local plan = plan_return(stale, due)
look_aside(plan.missing)
local seen, gone, is_full = {}, {}, false
local lists = ARGV[1] == 'expired' and has_used('e') and { pending } or {}
if #lists > 0 and has_used('h') then
  lists = { pending, pending .. ':high', pending .. ':low' }
end
for _, list in ipairs(lists) do
  local most = math.floor(250 / #lists)
  local front = redis.call('LRANGE', list, -most, -1)
  for index = #front, 1, -1 do
    local id = front[index]
    local state = redis.call('HEXISTS', tasks, id) == 1 and read_state(id)
    -- A state that says otherwise may be listed elsewhere, too.
    if state and is_late(state) and not seen[id] and redis.call('HGET', state.key, 'status') == PENDING then
      seen[id], gone[#gone + 1] = true, { id = id, list = list }
      is_full = is_full or #front == most
      ends(plan, id, state)
    end
  end
end

begin_writing(ARGV[2])
for _, each in ipairs(gone) do
  redis.call('LREM', each.list, -1, each.id) -- at the front, so it is not far to look
end
local buried = return_planned(plan)
add('requeued', requeued, plan.stale_count)
add('rejected', refused, buried)
trim(ARGV[2], buried)
hint()
return {
  #plan.pushed + #plan.late,
  (#stale == 250 or #due == 250 or is_full) and 1 or 0,
}
