"""The consumers that wait for tasks of several shards: one wait a server, whatever the number of shards.

Theory of operation. A blocking wait can be for one key only, and a script of one
shard can write only where that shard is. So `ShardedConsumers` *surveys* each
server: one call looks at all its shards, returns how many tasks each of them
has, and writes into each, as its *bell*, the name of the key on which this
object is going to wait. A script that makes work for somebody on one of these
shards adds the shard's name to that key: the shard *rings*.

After a survey, `ShardedConsumers` claims from the shards that have tasks, each
in its turn, and expects more from a shard as long as its claims bring all that
they ask for. Once no shard of a server is expected to have tasks, the wait on
that server begins. A ring ends it and says which shard to claim from. The end
of the slice, or a wait that broke, leads to the next survey.

While claims from some shards bring enough, no wait runs. A survey of one server
at a time, every `FAIRNESS` seconds, then finds tasks of the other shards, so
they do not wait long.

A server or a shard that does not answer is *lost*: consumers go on with the
others, and it is tried again after a back-off. The consumers get an error only
if all servers are lost. An answer that takes longer than `OVERDUE` seconds
delays nobody any more.

Timers, hints and parting work as in `torrelque.core.consumers`, for each shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from torrelque.core.claiming import claim
from torrelque.core.commands import ClaimedTask, cap
from torrelque.core.consumers import BACKOFF, MAX_FAILURES, SLICE, Hint, Look
from torrelque.core.lanes import MAX_CLAIM, Lane, Lanes
from torrelque.core.machine import Wait
from torrelque.core.protocol import Interrupted, Operation, Reply
from torrelque.core.waiters import Waiters
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, is_unavailable

if TYPE_CHECKING:
    from torrelque.core.keys import Keys
    from torrelque.core.merging import Ticket

__all__ = ('FAIRNESS', 'ShardedConsumers')

FAIRNESS = 0.1
"""Seconds after which consumers that have enough to do survey the next server, for shards that have something, too."""

REGISTERED = 20.0
"""Seconds for which shards ring where a consumer said that it waits: two slices and some time to spare."""

OVERDUE = 1.0
"""Seconds after which nobody goes without the tasks of other shards for the sake of an answer that has not come."""

HINTED = 64
"""Tasks that a shard is taken to have when it rang."""


class Partner:
    """Something that may not answer for a while, though others do: a server, or one shard."""

    __slots__ = ('failures', 'lost', 'not_before')

    def __init__(self) -> None:
        self.failures: int = 0
        self.lost: Exception | None = None
        self.not_before: float = -math.inf


class Shard(Partner):
    """One shard as its consumers see it."""

    __slots__ = (
        'alarm', 'asked', 'busy', 'claimed_at', 'expected', 'hinted', 'lane', 'lanes', 'names', 'number', 'ring',
        'seen', 'wake',
    )  # fmt: skip

    def __init__(self, number: int, lanes: Lanes, keys: Keys) -> None:
        super().__init__()
        self.number: int = number
        self.asked: int = 0  # tasks that a claim in flight asked for, unless it is overdue
        self.claimed_at: float = -math.inf
        self.lanes: Lanes = lanes
        self.lane: Lane = Lane()
        self.wake: bytes = keys['wake']
        self.ring: bytes = keys['ring']
        self.names: list[bytes] = [keys[name] for name in ('pending', 'delayed', 'working', 'timer', 'bell', 'wake')]
        self.busy: bool = False
        self.expected: int = 0  # tasks that are likely to be there
        self.seen: int = 0  # those that a survey found while a claim was in flight, perhaps after it was executed
        self.alarm: float = math.inf  # when the event is due that this client waits for
        self.hinted: bool = False  # it rang, and no claim began after: if nobody here can use it, others must be rung

    @property
    def promising(self) -> bool:
        """Whether tasks may come of it soon."""
        return not self.lost and (self.asked > 0 or (self.expected > 0 and not self.busy))

    @property
    def active(self) -> bool:
        return self.busy or (self.expected > 0 and not self.lost)


class Node(Partner):
    """A server, and which of the shards it holds."""

    __slots__ = ('done', 'hint', 'lead', 'look', 'shards', 'surveyed_at')

    def __init__(self, shards: Sequence[int]) -> None:
        super().__init__()
        self.lead: int = 0  # which of the shards' slots its surveys and waits are sent to
        self.shards: Sequence[int] = shards
        self.look: Look = Look.WANTED  # of surveys
        self.hint: Hint = Hint.ELSEWHERE
        self.surveyed_at: float = -math.inf
        self.done: int = 0  # the latest survey of it that was answered

    def want_survey(self) -> None:
        self.look = self.look.and_wanted

    def end_wait(self, *, taken: bool) -> None:
        """A wait ended; ``taken``: it may have removed a ring that nobody here will answer."""
        if taken:
            self.hint = Hint.TAKEN
        elif self.hint is Hint.BLOCKING:
            self.hint = Hint.ELSEWHERE

    @property
    def first(self) -> int:
        return self.shards[self.lead % len(self.shards)]


class ShardedConsumers:
    """Serves waiting consumers, first come first served, from several shards, each in its turn.

    Each server has two phases at a time. What happens to `Look`, for its surveys:

    =============================  ==========  ==========  ==============  ==============
    event                          NONE        WANTED      RUNNING         RUNNING_WANTED
    =============================  ==========  ==========  ==============  ==============
    new; a consumer joins          WANTED      --          RUNNING_WANTED  --
    the slice ends, a wait breaks  WANTED      --          RUNNING_WANTED  --
    poll, while claims bring all   RUNNING (1) RUNNING     --              --
    poll, consumers wait           --          RUNNING     --              --
    poll, nobody waits             RUNNING (2) RUNNING (2) --              --
    answer                         --          --          NONE            WANTED
    it fails                       --          --          WANTED (3)      WANTED
    =============================  ==========  ==========  ==============  ==============

    (1) For the server that was surveyed longest ago, every `FAIRNESS` seconds. (2) If Hint is TAKEN: those who wait
    elsewhere are rung. (3) NONE if the consumers got the error.

    What happens to `Hint`:

    =============================  ============  ============  ============
    event                          ELSEWHERE     BLOCKING      TAKEN
    =============================  ============  ============  ============
    poll, Look is NONE             BLOCKING (4)  --            --
    a shard rings                  --            ELSEWHERE (5) --
    the slice ends                 --            ELSEWHERE     --
    another ring, the wait breaks  --            TAKEN         --
    a survey is answered           --            --            ELSEWHERE
    close                          --            TAKEN         --
    =============================  ============  ============  ============

    (4) If somebody waits, and no shard of the server is expected to have tasks. (5) The shard itself is then
    ``hinted``, until a claim from it begins, or a tick if nobody waits any more.

    ``node_of`` tells by a key which server has it now; ``give_back`` takes claims
    that nobody is there for any more; ``on_generation`` hears the generation of the number
    of shards that the server has recorded, 0 for none; ``lost`` which shards do
    not answer, and why, or that they do again. The rest is as of :class:`~torrelque.core.consumers.Consumers`.
    """

    def __init__(
        self,
        node_of: Callable[[bytes], Hashable],
        clock: Callable[[], float],
        jitter: Callable[[], float],
        give_back: Callable[[Sequence[ClaimedTask]], None],
        on_generation: Callable[[int], None],
        block_limit: float = SLICE,
        max_rejected: int | None = None,
        on_lost: Callable[[Sequence[int], Exception | None], None] = lambda _shards, _error: None,
    ) -> None:
        self._node_of = node_of
        self._on_lost = on_lost
        self._on_generation = on_generation
        self._clock = clock
        self._jitter = jitter
        self._max_rejected = max_rejected
        self._longest_slice = min(SLICE, block_limit)
        self._shards: list[Shard] = []
        self._of_wake: dict[bytes, Shard] = {}
        self._nodes: dict[Hashable, Node] = {}
        self._waiters = Waiters(give_back)
        self._joined: dict[Ticket, int] = {}  # the number of surveys begun before
        self._surveys = 0
        self._look_wanted = False
        self._surveyed_at = -math.inf
        self._asked = 0  # tasks that claims in flight asked for
        self._turn = 0

    def add(self, lanes: Lanes, keys: Keys) -> None:
        """One more shard."""
        shard = Shard(len(self._shards), lanes, keys)
        self._shards.append(shard)
        self._look_wanted = bool(self._waiters)
        for member in (shard.wake, shard.wake + b'+'):
            self._of_wake[member] = shard
        self._nodes = {}

    def truncate(self, total: int) -> None:
        """Only the first ``total`` shards are left."""
        if total < len(self._shards):
            for shard in self._shards[total:]:
                del self._of_wake[shard.wake], self._of_wake[shard.wake + b'+']
            del self._shards[total:]
            self._look_wanted = bool(self._waiters)
            self._nodes = {}

    # Callers -----------------------------------------------------------------

    def join(self, ticket: Ticket, want: int, deadline: float, *, stays: bool = True) -> None:
        """Want up to ``want`` tasks until ``deadline``; or, unless it ``stays``, those that are there."""
        self._waiters.join(ticket, want, deadline, stays=stays)
        self._joined[ticket] = self._surveys
        self._look_wanted = True

    def leave(self, ticket: Ticket) -> None:
        """The caller has gone. What was already claimed for it goes back."""
        self._waiters.leave(ticket)

    # Driver ------------------------------------------------------------------

    def start(self) -> list[tuple[int, Operation[bool]]]:
        """What to run now, each with the shard that it is for. They return whether the server answered."""
        now = self._clock()
        self._waiters.time_out(now)
        self._forget_those_gone()
        if not self._waiters:
            return self._start_parting()
        for shard in self._shards:
            if shard.alarm <= now or (shard.lost and shard.not_before <= now):
                shard.expected = max(shard.expected, 1)
        self._pass_over(now)
        started = self._start_claims()
        if self._look_wanted and self._waiters.wanted > self._asked:
            self._look_wanted = False
            self._want_surveys()
        return started + self._start_surveys(now, busy=bool(started))

    def waits(self) -> list[Wait]:
        """The waits that are to begin now."""
        now = self._clock()
        waits: list[Wait] = []
        if self._look_wanted or self._waiters.deadline <= now:
            return waits
        for node in list(self._nodes.values()):
            if node.hint is Hint.BLOCKING or node.look is not Look.NONE or now < node.not_before:
                continue
            if any(self._shards[at].active for at in node.shards):
                continue
            if node.hint is Hint.TAKEN or now - node.surveyed_at > SLICE or self._regrouped():
                node.want_survey()
                continue
            node.hint = Hint.BLOCKING
            longest = min(self._longest_slice, self._waiters.deadline - now)
            seconds = max(0.001, longest * (1 - 0.15 * self._jitter()))
            waits.append(Wait(self._shards[node.first].ring, seconds, _Waiting(self, node)))
        return waits

    def timer(self) -> float:
        """When to call `start` and `waits` again at the latest, whatever happens."""
        times = [self._waiters.expiry]
        if self._waiters:
            # One that is to be claimed from, alarm or not, may have to wait for an answer that brings enough or not.
            times += [shard.alarm for shard in self._shards if not shard.active]
            times += [shard.not_before for shard in self._shards if shard.lost and not shard.busy]
            times += [shard.claimed_at + OVERDUE for shard in self._shards if shard.asked]
            times += [node.surveyed_at + OVERDUE for node in self._nodes.values() if self._keeps_waiting(node)]
            times += [node.not_before for node in self._nodes.values() if node.look is Look.WANTED]
        return min(times)

    def close(self) -> None:
        """The queue object is being closed: fail those who wait; the waits that are cancelled may take hints along."""
        self.abort(TorrelqueError('the queue was closed while waiting for a task'))
        for node in self._nodes.values():
            if node.hint is Hint.BLOCKING:
                node.hint = Hint.TAKEN

    def abort(self, error: Exception) -> None:
        """Tell all who wait; what was claimed for one that wants more is its."""
        self._look_wanted = False
        self._waiters.abort(error)

    # Waits -------------------------------------------------------------------

    def ended(self, node: Node, member: bytes | None) -> None:
        """A wait ended: a shard rang, or its time was over."""
        if node not in self._nodes.values():  # the shards were on other servers meanwhile
            self._want_surveys()
        node.failures = 0
        shard = None if member is None else self._of_wake.get(member)
        if shard is not None:
            shard.expected = max(shard.expected, HINTED)
            shard.hinted = True
            node.end_wait(taken=False)
        else:  # the slice is over, or the number of shards was changed
            node.want_survey()
            node.end_wait(taken=member is not None)

    def failed(self, node: Node, error: Exception) -> None:
        """A wait broke. A hint may be lost with it; the survey that follows finds what it told of."""
        node.failures += 1
        node.want_survey()
        node.end_wait(taken=True)
        self._look_wanted = bool(self._waiters)
        node.not_before = self._clock() + BACKOFF.pause(node.failures, self._jitter)
        if not isinstance(error, TorrelqueConnectionError):
            self.abort(error)
        elif node.failures >= MAX_FAILURES:
            self._lose(node, error)

    # What does not answer ----------------------------------------------------

    def _lose(self, partner: Node | Shard, error: Exception) -> None:
        """A server or a shard does not answer. Waiting callers get the error if no other shard answers."""
        if not is_unavailable(error):
            self.abort(error)
            return
        is_new, partner.lost = partner.lost is None, error
        if isinstance(partner, Node):
            partner.want_survey()
            for shard in self._shards:
                if shard.number in partner.shards:
                    shard.expected = 0
        if all(shard.lost for shard in self._shards) or all(
            node.lost or all(self._shards[at].lost for at in node.shards) for node in self._nodes.values()
        ):
            for each in (*self._shards, *self._nodes.values()):
                each.lost, each.not_before = None, -math.inf  # the next caller asks all of them
            self.abort(error)
            return
        partner.not_before = self._clock() + BACKOFF.pause(max(partner.failures, 1), self._jitter)
        if is_new:
            self._on_lost(partner.shards if isinstance(partner, Node) else [partner.number], error)
        self._hand_out(())

    def _find(self, partner: Node | Shard) -> None:
        """It answers."""
        if partner.lost is not None:
            partner.lost, partner.not_before = None, -math.inf
            self._on_lost(partner.shards if isinstance(partner, Node) else [partner.number], None)

    def _node_with(self, shard: Shard) -> Node | None:
        return next((node for node in self._nodes.values() if shard.number in node.shards), None)

    def _pass_over(self, now: float) -> None:
        """What has not answered for long holds up nobody any more."""
        is_late = False
        for shard in self._shards:
            if shard.asked and shard.claimed_at + OVERDUE <= now:
                self._asked -= shard.asked
                shard.asked, is_late = 0, True
        if is_late or any(self._is_overdue(node) for node in self._nodes.values()):
            self._hand_out(())

    def _keeps_waiting(self, node: Node) -> bool:
        """Whether an answer is waited for."""
        return node.look.is_running and node.surveyed_at + OVERDUE > self._clock()

    # Claims ------------------------------------------------------------------

    def _start_claims(self) -> list[tuple[int, Operation[bool]]]:
        started: list[tuple[int, Operation[bool]]] = []
        first, count = self._turn, len(self._shards)
        missing = self._waiters.wanted - self._asked
        for step in range(count):
            at = (first + step) % count
            shard = self._shards[at]
            if missing <= 0:
                break
            if shard.busy or not shard.expected or (shard.lost and self._clock() < shard.not_before):
                continue
            if shard.lost:  # to see whether it answers again: what is wanted is asked for elsewhere, too
                shard.busy, shard.expected = True, 0
                started.append((at, self._claim(shard, 1)))
                continue
            if not started:
                self._turn = at + 1
            asked = min(missing, shard.expected, MAX_CLAIM)
            missing -= asked
            self._asked += asked
            shard.asked, shard.claimed_at = asked, self._clock()
            shard.busy, shard.hinted, shard.alarm, shard.seen = True, False, math.inf, 0
            started.append((at, self._claim(shard, asked)))
        return started

    def _claim(self, shard: Shard, asked: int) -> Operation[bool]:
        try:
            if not self._waiters:  # all have left before it began; what it was for is left to others
                return (yield from self._tick(shard))
            now = self._clock()
            willing = max(0.0, self._waiters.deadline - now)
            answer = yield from claim(shard.lanes, asked, willing, shard.lane, now, self._max_rejected)
        except Interrupted as interrupted:
            self._end_claim(shard)
            if interrupted.cause is None:
                self.abort(TorrelqueError('the queue was closed while waiting for a task'))
            else:
                shard.failures += 1
                node = self._node_with(shard) if isinstance(interrupted.cause, TorrelqueConnectionError) else None
                self._lose(node or shard, interrupted.cause)
        except Exception as error:  # noqa: BLE001 - every waiting caller gets it
            self.abort(error)
        else:
            self._find(shard)
            shard.failures = 0
            if answer.alarm is not None:
                shard.alarm = self._clock() + answer.alarm
            full = answer.again or len(answer.tasks) == asked
            shard.expected = max(1, shard.expected - asked) if full else shard.seen
            self._end_claim(shard)
            self._hand_out(answer.tasks)
            return True
        finally:
            self._end_claim(shard)
        shard.expected = 0
        return False

    def _end_claim(self, shard: Shard) -> None:
        shard.busy = False
        self._asked -= shard.asked
        shard.asked = 0

    def _tick(self, shard: Shard) -> Operation[bool]:
        """Nobody waits any more: leave the shard's timer and hint to others."""
        shard.expected = 0
        try:
            yield from shard.lanes.script('tick', (shard.lane.number, 0, *cap(self._max_rejected)), bool)
        except (Interrupted, Exception):  # noqa: BLE001 - whatever it is, nobody waits for it
            return False  # the timer expires by itself, the hint costs others a slice
        return True

    def _hand_out(self, tasks: Sequence[ClaimedTask]) -> None:
        promising = any(shard.promising for shard in self._shards)
        looked = () if promising else self._looked()
        self._waiters.hand_out(looked, tasks, more=promising)
        self._forget_those_gone()

    def _looked(self) -> Iterable[Ticket]:
        """Whose shards were all looked at since they came."""
        answered = [node.done for node in self._nodes.values() if not node.lost and not self._is_overdue(node)]
        done = min(answered, default=0)
        return [ticket for ticket, joined in self._joined.items() if joined < done]

    def _is_overdue(self, node: Node) -> bool:
        return node.look.is_running and not self._keeps_waiting(node)

    def _forget_those_gone(self) -> None:
        if len(self._joined) > len(self._waiters):
            self._joined = {ticket: joined for ticket, joined in self._joined.items() if ticket in self._waiters}

    # Surveys -----------------------------------------------------------------

    def _regrouped(self) -> bool:
        """See which server has which shard now; whether that changed."""
        groups: dict[Hashable, list[int]] = {}
        try:
            for at, shard in enumerate(self._shards):
                groups.setdefault(self._node_of(shard.wake), []).append(at)
        except Exception as error:  # noqa: BLE001 - every waiting caller gets it
            self.abort(error)
            return False
        if {name: node.shards for name, node in self._nodes.items()} == groups:
            return False
        old = self._nodes
        self._nodes = {
            name: old[name] if name in old and old[name].shards == shards else Node(shards)
            for name, shards in groups.items()
        }
        return True

    def _want_surveys(self) -> None:
        self._regrouped()
        for node in self._nodes.values():
            node.want_survey()

    def _start_surveys(self, now: float, *, busy: bool) -> list[tuple[int, Operation[bool]]]:
        started: list[tuple[int, Operation[bool]]] = []
        if busy and now - self._surveyed_at > FAIRNESS:
            self._regrouped()  # there may be shards, or servers, that no survey has been of
            # One server at a time: what surveys cost all servers together does not grow with their number.
            others = [node for node in self._nodes.values() if node.hint is not Hint.BLOCKING]
            if others:
                min(others, key=lambda node: node.surveyed_at).want_survey()
            self._surveyed_at = now
        for node in self._nodes.values():
            if node.look is Look.WANTED and now >= node.not_before:
                node.look, node.surveyed_at = Look.RUNNING, now
                self._surveyed_at = now
                self._surveys += 1
                started.append((node.first, self._survey(node, self._surveys, REGISTERED)))
        return started

    def _survey(self, node: Node, number: int, registered: float) -> Operation[bool]:
        shards = [self._shards[at] for at in node.shards]
        names = [name for shard in shards for name in shard.names]
        lead = self._shards[node.first]
        lanes = lead.lanes
        try:
            generation, findings = yield from lanes.script('survey', (round(registered * 1000), *names), _findings)
        except (Interrupted, Exception) as error:  # noqa: BLE001 - every waiting caller gets it
            node.look = node.look.over
            cause = error.cause if isinstance(error, Interrupted) else error
            if registered and cause is None:
                self.abort(TorrelqueError('the queue was closed while waiting for a task'))
            elif registered and isinstance(cause, Exception):
                self._regrouped()  # it may be known by now that only some of them are where nobody answers
                where = self._node_with(lead)
                if where is not None:  # else the shard is no more
                    where.failures += 1
                    where.lead += 1
                    self._lose(where, cause)
            return False
        finally:
            node.look = node.look.over
        self._find(node)
        if registered:
            node.done = number
            if node.hint is Hint.TAKEN:
                node.hint = Hint.ELSEWHERE
            for shard, finding in zip(shards, findings, strict=True):
                shard.seen = finding
                if not shard.busy and not shard.hinted:
                    shard.expected = finding
            self._hand_out(())
        self._on_generation(generation)
        return True

    def _start_parting(self) -> list[tuple[int, Operation[bool]]]:
        """Nobody waits any more: leave timers and hints to others."""
        started: list[tuple[int, Operation[bool]]] = []
        for at, shard in enumerate(self._shards):
            if not shard.busy and (shard.alarm < math.inf or shard.hinted):
                shard.alarm, shard.hinted = math.inf, False
                started.append((at, self._tick(shard)))
        for node in self._nodes.values():
            if node.hint is Hint.TAKEN and not node.look.is_running:
                node.hint, node.look = Hint.ELSEWHERE, Look.RUNNING
                started.append((node.first, self._survey(node, 0, 0.0)))
        return started


class _Waiting:
    """Receives the end of one wait."""

    __slots__ = ('_consumers', '_node')

    def __init__(self, consumers: ShardedConsumers, node: Node) -> None:
        self._consumers = consumers
        self._node = node

    def ended(self, member: bytes | None, _reply: Reply = None, /) -> None:
        self._consumers.ended(self._node, member)

    def failed(self, error: Exception) -> None:
        self._consumers.failed(self._node, error)


def _findings(reply: Reply) -> tuple[int, list[int]]:
    """The generation of the number of shards (0: not known), and how many tasks to expect of each that was looked at.

    Where an event is near, or a shard could not be looked at, a claim will tell.
    """
    generation, findings = reply
    return int(generation or 0), [int(finding) if finding.isdigit() else 1 for finding in findings.split()]
