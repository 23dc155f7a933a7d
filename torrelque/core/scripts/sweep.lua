-- Return stale or due tasks to pending, or end expired ones at the front of pending and its levels, or of groups, at most 250
-- per call.
-- KEYS: pending delayed working tasks task wake timer counters rejected missing groups lane
-- ARGV: kind (stale, due or expired), then the maximum number of dead letters ('' for no cap), then groups, at most 250, to look
--   into these instead of pending
-- returns: how many were returned or ended; 1 if there may be more, 2 if there may be some in groups; then those of the groups
--   in which there may be more

local requeued, refused = totals('requeued', 'rejected')
look()
redis.call('ZCARD', rejected)
local stale = ARGV[1] == 'stale' and expired(working, 250) or {}
local due = ARGV[1] == 'due' and expired(delayed, 250) or {}
local plan = plan_return(stale, due)
look_aside(plan.missing)
local lines, seen, gone, full = {}, {}, {}, {}
if ARGV[1] == 'expired' and has_used('e') then
  for at = 3, has_used('g') and #ARGV or 0 do
    lines[#lines + 1] = { key = group_key('pending', ARGV[at]), name = ARGV[at] }
  end
  for _, level in ipairs(ARGV[3] and {} or has_used('h') and { '', ':high', ':low' } or { '' }) do
    lines[#lines + 1] = { key = pending .. level }
  end
end
local most = math.floor(250 / math.max(1, #lines))
for _, line in ipairs(lines) do
  local front, count = (line.name and redis.pcall or redis.call)('LRANGE', line.key, -most, -1), #gone
  for index = mistyped(front) and 0 or #front, 1, -1 do
    local id = front[index]
    local state = not seen[id] and redis.call('HEXISTS', tasks, id) == 1 and read_state(id)
    -- A state that says otherwise may be listed elsewhere, too.
    if state and is_late(state) and redis.call('HGET', state.key, 'status') == PENDING
      and (not has_lines() or line_of(id) == line.key) then
      seen[id], gone[#gone + 1] = true, { id = id, line = line }
      ends(plan, id, state)
    end
  end
  if #front == most and #gone > count then
    full[#full + 1] = line.name or ''
  end
end

begin_writing(ARGV[2])
for _, each in ipairs(gone) do
  redis.call('LREM', each.line.key, -1, each.id) -- at the front, so it is not far to look
  if each.line.name then
    touch(each.line.name)
  end
end
local buried = return_planned(plan)
add('requeued', requeued, plan.stale_count)
add('rejected', refused, buried)
trim(ARGV[2], buried)
hint()
local more = #stale == 250 or #due == 250 or #full > 0
local in_groups = #lines > 0 and not ARGV[3] and has_used('g')
return { #plan.pushed + #plan.late, more and 1 or in_groups and 2 or 0, unpack(ARGV[3] and full or {}) }
