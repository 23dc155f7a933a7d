-- Return at most 20 stale and 20 due tasks to pending, and take the timer for the next event, or drop it (willing 0).
-- KEYS: pending delayed working tasks task wake timer counters rejected missing groups lane
-- ARGV: lane willing, then the maximum number of dead letters, if there is a cap
-- returns: seconds until the event that the caller now handles, or ''

local requeued, refused, recheck = totals('requeued', 'rejected', 'recheck')
look()
redis.call('ZCARD', rejected)
local plan = plan_return(expired(working, 20), expired(delayed, 20))
look_aside(plan.missing)

begin_writing(ARGV[3])
local buried = return_planned(plan)
add('requeued', requeued, plan.stale_count)
add('rejected', refused, buried)
trim(ARGV[3], buried)
if has_lines() then
  -- rarely
  if recheck and recheck ~= '' then
    recheck_some(recheck)
  end
  -- end
end
drop_timer()
local alarm = take_timer(tonumber(ARGV[2]))
hint()
return alarm and stamp(alarm) or ''
