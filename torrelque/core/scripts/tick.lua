-- Return stale and due tasks to pending, at most 20 of each, and take over the next event, or leave it (willing 0).
-- KEYS: pending delayed working tasks task wake timer counters rejected missing lane
-- ARGV: lane willing, then the most dead letters to be kept, if there is a cap
-- returns: seconds until the event that the caller now waits for, or ''

local requeued, refused = totals('requeued', 'rejected')
look()
redis.call('ZCARD', rejected)
local plan = plan_return(expired(working, 20), expired(delayed, 20))
look_aside(plan.missing)

begin_writing(ARGV[3])
return_planned(plan)
add('requeued', requeued, plan.stale_count)
add('rejected', refused, #plan.dead)
trim(ARGV[3], #plan.dead)
drop_timer()
local alarm = take_timer(tonumber(ARGV[2]))
hint()
return alarm and stamp(alarm) or ''
