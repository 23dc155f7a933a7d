-------------------------------- MODULE Turns --------------------------------
(***************************************************************************)
(* In which order groups are served: start-time fair queueing.             *)
(*                                                                         *)
(* A line is a group, or the ungrouped tasks. A claim takes a task of the  *)
(* ready line with the least tag (of equal ones, the first by name), and   *)
(* adds Unit/weight to the tag. The queue's turn is the tag that was       *)
(* served last. A line that was not ready, because it was empty or at its  *)
(* limit, returns at max(turn, its own tag).                               *)
(*                                                                         *)
(* `ahead` is how far a tag is ahead of the turn, 0 if it is behind. So    *)
(* the turn itself is always 0, the rule for those that return is to leave *)
(* `ahead` alone, and there are finitely many states.                      *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets

CONSTANTS Weights,   \* of line 1, 2, ...: a sequence
          Unit,      \* a multiple of each weight
          Most,      \* tasks that wait in a line at most
          Slots,     \* tasks that consumers work on at once, at most
          Limit,     \* and those of one line
          Broken

VARIABLES waiting, working, ahead, \* of each line
          passed,                  \* passed[line][other]: how often the other was served while this line was ready
          served                   \* the line that was served last

\* The weights of the configurations.
Equal == <<1, 1, 1>>
Unequal == <<3, 2>>

vars == <<waiting, working, ahead, passed, served>>
Lines == DOMAIN Weights
Step(line) == Unit \div Weights[line]
Ready(line) == waiting[line] > 0 /\ working[line] < Limit

\* While a line is ready, each other is served at most once, and once more for each time that its weight is this one's.
AtMost(line, other) == 1 + Weights[other] \div Weights[line]

RECURSIVE Sum(_, _)
Sum(f, S) == IF S = {} THEN 0 ELSE LET x == CHOOSE x \in S : TRUE IN f[x] + Sum(f, S \ {x})

First == CHOOSE line \in Lines :
    /\ Ready(line)
    /\ \A other \in Lines \ {line} :
         Ready(other) => ahead[line] < ahead[other] \/ (ahead[line] = ahead[other] /\ line < other)

\* The rule for a line that may have become ready in this step.
Enter(line, tags) ==
    IF "a returning group keeps its tag" \in Broken /\ ~Ready(line) /\ Ready(line)' THEN [tags EXCEPT ![line] = 0] ELSE tags

Enqueue(line) ==
    /\ waiting[line] < Most
    /\ waiting' = [waiting EXCEPT ![line] = @ + 1]
    /\ UNCHANGED <<working, passed, served>>
    /\ ahead' = Enter(line, ahead)

Claim ==
    /\ Sum(working, Lines) < Slots /\ \E line \in Lines : Ready(line)
    /\ waiting' = [waiting EXCEPT ![First] = @ - 1]
    /\ working' = [working EXCEPT ![First] = @ + 1]
    /\ ahead' = [line \in Lines |-> IF line = First THEN Step(line)
                                    ELSE IF ahead[line] < ahead[First] THEN 0 ELSE ahead[line] - ahead[First]]
    /\ passed' = [line \in Lines |-> [other \in Lines |->
                    CASE line = First \/ ~Ready(line) -> 0
                      [] other = First /\ passed[line][other] <= AtMost(line, other) -> passed[line][other] + 1
                      [] OTHER -> passed[line][other]]]
    /\ served' = First

End(line) ==
    /\ working[line] > 0
    /\ working' = [working EXCEPT ![line] = @ - 1]
    /\ UNCHANGED <<waiting, passed, served>>
    /\ ahead' = Enter(line, ahead)

Init ==
    /\ waiting = [line \in Lines |-> 0]
    /\ working = [line \in Lines |-> 0]
    /\ ahead = [line \in Lines |-> 0]
    /\ passed = [line \in Lines |-> [other \in Lines |-> 0]]
    /\ served = 0

Next == Claim \/ \E line \in Lines : Enqueue(line) \/ End(line)

Spec == Init /\ [][Next]_vars /\ WF_vars(Claim) /\ \A line \in Lines : WF_vars(End(line))

-----------------------------------------------------------------------------
(* What holds *)

Fair == \A line, other \in Lines : Ready(line) => passed[line][other] <= AtMost(line, other)

\* No line waits for ever, whatever its name is.
NobodyStarves == \A line \in Lines : []<>(waiting[line] = 0 \/ served = line)
=============================================================================
