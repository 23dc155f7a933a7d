------------------------------- MODULE WakeUp -------------------------------
(***************************************************************************)
(* How idle consumers learn of tasks: groups with limits, hints, the timer.*)
(*                                                                         *)
(* A step is a script on the server, or an event at a client. Consumers    *)
(* wait without end: the slice of 8 seconds, after which a real one looks  *)
(* anyway, is left out, because it would hide every lost wake-up. So a     *)
(* consumer may crash only while it works on a task. Time is counted down: *)
(* each deadline says how many ticks are left.                             *)
(*                                                                         *)
(* `Broken` names rules to leave out. With any of them, TLC has to find a  *)
(* counterexample.                                                         *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS Consumers, Nobody, Groups, None,
          GroupOf,             \* task -> its group, or None
          Limits, Defaults,    \* limits that one group, and all groups, can be given
          Lease, Delay, Hold,  \* ticks: of a claim, of a delayed task, until a group may go on
          Broken

VARIABLES q,      \* the queue's records, on the server
          wake,   \* hints, on the server: at most two
          timer,  \* which consumer looks when the next event is due, and in how many ticks
          phase   \* what each consumer does: away, looking (about to claim), waiting (blocked), working

\* The tasks of the configurations, and their groups.
Mixed == [a1 |-> "A", a2 |-> "A", u |-> None]
Pair == [a1 |-> "A", a2 |-> "A"]
Two == [a |-> "A", b |-> "B"]

vars == <<q, wake, timer, phase>>
Tasks == DOMAIN GroupOf
NoTimer == [by |-> Nobody, left |-> 0]

Min(S) == CHOOSE x \in S : \A y \in S : x <= y
Down(n) == IF n = 0 THEN 0 ELSE n - 1
GroupsOf(ts) == {GroupOf[t] : t \in ts} \ {None}

-----------------------------------------------------------------------------
(* Parts of the scripts: they take the queue's records and return them. (TLCEval makes TLC fast and means nothing.) *)

Waiting(s, g) == {t \in Tasks : GroupOf[t] = g /\ s.place[t] = "pending"}

\* Put groups where they belong. Every script ends with this for the groups that it touched.
Place(s, gs) ==
    LET Belongs(g) == CASE Waiting(s, g) = {}                      -> "nowhere"
                        [] s.until[g] > 0                          -> "held"
                        [] Cardinality(s.busy[g]) >= s.limit[g]    -> "blocked"
                        [] OTHER                                   -> "ready"
        Update(index, name) == (index \ gs) \cup {g \in gs : Belongs(g) = name}
    IN  TLCEval([s EXCEPT !.ready = Update(@, "ready"), !.blocked = Update(@, "blocked"), !.held = Update(@, "held")])

\* Move tasks, and end their claims.
Move(s, ts, place, left) ==
    TLCEval([s EXCEPT !.place = [t \in Tasks |-> IF t \in ts THEN place ELSE @[t]],
                      !.left = [t \in Tasks |-> IF t \in ts THEN left ELSE @[t]],
                      !.holder = [t \in Tasks |-> IF t \in ts THEN Nobody ELSE @[t]]])

Free(s, ts) == TLCEval([s EXCEPT !.busy = [g \in Groups |-> @[g] \ ts]])

\* Stale claims and due tasks return to their lists, groups whose time has come go on, and one page of a changed default
\* is looked through.
Return(s) ==
    LET stale == {t \in Tasks : s.place[t] = "working" /\ s.left[t] = 0}
        due == {t \in Tasks : s.place[t] = "delayed" /\ s.left[t] = 0}
        moved == Move(s, stale \cup due, "pending", 0)
        freed == IF "stale frees the slot" \in Broken THEN moved ELSE Free(moved, stale)
        page == IF s.unseen = {} THEN {} ELSE {CHOOSE g \in s.unseen : TRUE}
        rest == [freed EXCEPT !.unseen = @ \ page]
    IN  Place(rest, GroupsOf(stale \cup due) \cup {g \in s.held : s.until[g] = 0} \cup page)

\* What a claim may take. It looks at limits itself: `ready` may be older than a lowered default.
Takeable(s) == Waiting(s, None) \cup UNION {Waiting(s, g) : g \in s.ready}

Take(s, t, c, hold) ==
    LET g == GroupOf[t]
        moved == [Move(s, {t}, "working", Lease) EXCEPT !.holder[t] = c]
    IN  IF g = None THEN moved
        ELSE Place([moved EXCEPT !.busy[g] = @ \cup {t}, !.until[g] = IF hold > 0 THEN hold ELSE @], {g})

-----------------------------------------------------------------------------
(* Hints and the timer *)

Events(s) == {s.left[t] : t \in {u \in Tasks : s.place[u] \in {"delayed", "working"}}} \cup {s.until[g] : g \in s.held}

Covered(tm, event) == tm.by # Nobody /\ tm.left <= event

\* For how many tasks to wake consumers, at least.
Left(s) == Cardinality(Waiting(s, None))
           + (IF "the hint counts groups" \in Broken THEN 0 ELSE Cardinality(s.ready))
           + (IF s.unseen = {} \/ "the hint counts unseen groups" \in Broken THEN 0 ELSE 1)

Hint(s, tm, empty) ==
    LET events == Events(s)
    IN  CASE Left(s) > 1 -> {0, 1}
          [] Left(s) = 1 -> wake \cup {0}
          [] events # {} /\ (Min(events) = 0 \/ ~Covered(tm, Min(events))) -> wake \cup {0}
          [] OTHER -> IF empty THEN {} ELSE wake

DropTimer(tm, c) == IF tm.by = c THEN NoTimer ELSE tm

TakeTimer(s, tm, c) ==
    LET events == Events(s)
    IN  IF events = {} \/ Min(events) = 0 \/ Covered(tm, Min(events)) THEN tm
        ELSE [by |-> c, left |-> Min(events)]

\* The end of a script that leaves these records.
Leave(s) == q' = s /\ wake' = Hint(s, timer, FALSE) /\ UNCHANGED timer

-----------------------------------------------------------------------------
(* Steps *)

Enqueue(t) ==
    /\ q.place[t] = "nowhere"
    /\ \/ Leave(Place(Move(q, {t}, "pending", 0), GroupsOf({t})))
       \/ Leave(Move(q, {t}, "delayed", Delay))
    /\ UNCHANGED phase

\* A delivery may use up its group's rate. Then the group may go on after `Hold` ticks.
Claim(c) ==
    /\ phase[c] = "looking"
    /\ LET returned == Return(q)
           s == Place(returned, returned.ready)
           free == DropTimer(timer, c)
           minded == TakeTimer(s, free, c)
       IN  \/ \E t \in Takeable(s), hold \in {0, Hold} :
                /\ GroupOf[t] = None => hold = 0
                /\ q' = Take(s, t, c, hold)
                /\ timer' = free
                /\ wake' = Hint(q', timer', FALSE)
                /\ phase' = [phase EXCEPT ![c] = "working"]
           \/ /\ Takeable(s) = {}
              /\ q' = s
              /\ timer' = minded
              /\ wake' = Hint(q', timer', TRUE)
              /\ phase' = [phase EXCEPT ![c] = "waiting"]

Held(c) == {t \in Tasks : q.holder[t] = c} \* none if its lease ended and the task was taken back

\* It may free a place in a group, but adds no event: a group that is held is in `held` even if it has no free place.
Release(c) ==
    /\ phase[c] = "working"
    /\ q' = Place(Free(Move(q, Held(c), "nowhere", 0), Held(c)), GroupsOf(Held(c)))
    /\ wake' = IF Left(q') > 0 THEN Hint(q', timer, FALSE) ELSE wake
    /\ UNCHANGED timer
    /\ phase' = [phase EXCEPT ![c] = "looking"]

\* The handler failed: its task is delayed, and its whole group may be held.
Retry(c) ==
    /\ phase[c] = "working"
    /\ \E hold \in {0, Hold} :
         LET moved == Free(Move(q, Held(c), "delayed", Delay), Held(c))
             held == [moved EXCEPT !.until = [g \in Groups |-> IF hold > 0 /\ g \in GroupsOf(Held(c)) THEN hold ELSE @[g]]]
         IN  Leave(Place(held, GroupsOf(Held(c))))
    /\ phase' = [phase EXCEPT ![c] = "looking"]

Extend(c) ==
    /\ phase[c] = "working"
    /\ q' = [q EXCEPT !.left = [t \in Tasks |-> IF t \in Held(c) THEN Lease ELSE @[t]]]
    /\ UNCHANGED <<wake, timer, phase>>

Crash(c) ==
    /\ phase[c] = "working"
    /\ q' = [q EXCEPT !.holder = [t \in Tasks |-> IF @[t] = c THEN Nobody ELSE @[t]]]
    /\ phase' = [phase EXCEPT ![c] = "away"]
    /\ UNCHANGED <<wake, timer>>

Come(c) == phase[c] = "away" /\ phase' = [phase EXCEPT ![c] = "looking"] /\ UNCHANGED <<q, wake, timer>>

\* A consumer stops waiting. If it holds the timer or took a hint, it sends a tick.
Go(c) ==
    /\ phase[c] \in {"looking", "waiting"}
    /\ phase' = [phase EXCEPT ![c] = "away"]
    /\ IF phase[c] = "looking" \/ timer.by = c
       THEN /\ q' = Return(q)
            /\ timer' = DropTimer(timer, c)
            /\ wake' = Hint(q', timer', FALSE)
       ELSE UNCHANGED <<q, wake, timer>>

\* The wait ends: it got a hint, or the consumer's own timer says that the event is due.
Wake(c) ==
    /\ phase[c] = "waiting" /\ wake # {}
    /\ wake' = wake \ {Min(wake)}
    /\ phase' = [phase EXCEPT ![c] = "looking"]
    /\ UNCHANGED <<q, timer>>

AlarmIsDue(c) == phase[c] = "waiting" /\ timer.by = c /\ timer.left = 0
Alarm(c) == AlarmIsDue(c) /\ phase' = [phase EXCEPT ![c] = "looking"] /\ UNCHANGED <<q, wake, timer>>

SetLimit(g, n) ==
    /\ n # q.limit[g]
    /\ Leave(Place([q EXCEPT !.limit[g] = n], {g}))
    /\ UNCHANGED phase

\* The default changes for all groups at once. One script cannot look at them all, and its caller may die before the next
\* one, so the groups not yet seen are noted, and claims and ticks go on.
SetDefault(n) ==
    /\ \E g \in Groups : n # q.limit[g]
    /\ Leave([q EXCEPT !.limit = [g \in Groups |-> n], !.unseen = q.blocked])
    /\ UNCHANGED phase

\* Clients notice an alarm in time: the timer outlives its event by a moment.
Tick ==
    /\ \A c \in Consumers : ~AlarmIsDue(c)
    /\ q' = [q EXCEPT !.left = [t \in Tasks |-> Down(@[t])], !.until = [g \in Groups |-> Down(@[g])]]
    /\ timer' = IF timer.left = 0 THEN NoTimer ELSE [timer EXCEPT !.left = Down(@)]
    /\ UNCHANGED <<wake, phase>>

Init ==
    /\ \E n \in Limits \cup Defaults :
         q = [place |-> [t \in Tasks |-> "nowhere"], left |-> [t \in Tasks |-> 0], holder |-> [t \in Tasks |-> Nobody],
              busy |-> [g \in Groups |-> {}], limit |-> [g \in Groups |-> n], until |-> [g \in Groups |-> 0],
              ready |-> {}, blocked |-> {}, held |-> {}, unseen |-> {}]
    /\ wake = {}
    /\ timer = NoTimer
    /\ phase = [c \in Consumers |-> "away"]

Next ==
    \/ \E t \in Tasks : Enqueue(t)
    \/ \E c \in Consumers :
         Claim(c) \/ Release(c) \/ Retry(c) \/ Extend(c) \/ Crash(c) \/ Come(c) \/ Go(c) \/ Wake(c) \/ Alarm(c)
    \/ \E g \in Groups, n \in Limits : SetLimit(g, n)
    \/ \E n \in Defaults : SetDefault(n)
    \/ Tick

\* Time passes, and a consumer that has a reason to look claims: weak fairness of Claim, Wake and Alarm, in a form that TLC
\* checks much faster. Nobody has to enqueue, to finish a task, to come or to go.
Fairness ==
    /\ WF_vars(Tick)
    /\ \A c \in Consumers : /\ []<>(phase[c] # "looking")
                            /\ []<>(phase[c] # "waiting" \/ wake = {})
                            /\ []<>~AlarmIsDue(c)

Spec == Init /\ [][Next]_vars /\ Fairness

-----------------------------------------------------------------------------
(* What holds *)

Running(g) == {t \in Tasks : GroupOf[t] = g /\ q.place[t] = "working"}

\* In tasks and their deadlines alone, without the indexes: can a consumer get something now?
Servable ==
    \E t \in Tasks :
        /\ q.place[t] = "pending" \/ (q.place[t] \in {"delayed", "working"} /\ q.left[t] = 0)
        /\ LET g == GroupOf[t]
           IN  g = None \/ (q.until[g] = 0 /\ Cardinality({u \in Running(g) : q.left[u] > 0}) < q.limit[g])

\* Never are a task that may be served and an idle consumer both waiting for ever.
WokenUp == \A c \in Consumers : (phase[c] = "waiting" /\ Servable) ~> ~(phase[c] = "waiting" /\ Servable)

\* Every group with waiting tasks is in exactly one index, and no other group is in any.
OneIndex ==
    \A g \in Groups :
        Cardinality({i \in {"ready", "blocked", "held"} : g \in q[i]}) = (IF Waiting(q, g) = {} THEN 0 ELSE 1)

BusyIsWorking == \A g \in Groups : q.busy[g] = Running(g)

\* A claim never takes a group over its limit, nor from a group that is held.
WithinLimits ==
    [][\A g \in Groups : Cardinality(Running(g)') > Cardinality(Running(g))
                         => Cardinality(Running(g)') <= q.limit[g] /\ q.until[g] = 0]_vars
=============================================================================
