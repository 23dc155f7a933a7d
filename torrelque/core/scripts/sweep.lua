-- Return stale or due tasks to pending, at most 250 per call.
-- KEYS: pending delayed working tasks task wake timer counters rejected missing lane
-- ARGV: kind (stale or due), then the maximum number of dead letters, if there is a cap
-- returns: how many were returned, 1 if there may be more

local requeued, refused = totals('requeued', 'rejected')
look()
redis.call('ZCARD', rejected)
local stale = ARGV[1] == 'stale' and expired(working, 250) or {}
local due = ARGV[1] == 'due' and expired(delayed, 250) or {}
local plan = plan_return(stale, due)
look_aside(plan.missing)

begin_writing(ARGV[2])
return_planned(plan)
add('requeued', requeued, plan.stale_count)
add('rejected', refused, #plan.dead)
trim(ARGV[2], #plan.dead)
hint()
return { #plan.pushed, (#stale == 250 or #due == 250) and 1 or 0 }
