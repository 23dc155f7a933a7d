"""Serves consumers that wait for tasks from several shards, with one wait per server however many shards it has.

Theory of operation. A blocking wait works on one key only, and a script of one
shard can write only where that shard is. So `ShardedConsumers` *surveys* each
server: one call looks at all its shards, returns how many tasks each of them
has, and writes into each, as its *bell*, the name of the key on which this
object is going to wait. A script that makes work for a consumer on one of these
shards adds the shard's name to that key: the shard *rings*.

After a survey, `ShardedConsumers` claims from the shards that have tasks, each
in its turn, and expects more from a shard as long as its claims bring all that
they ask for. Once no shard of a server is expected to have tasks, the wait on
that server begins. A ring ends it and says which shard to claim from. The end
of the slice, or a wait that broke, leads to the next survey.

While claims from some shards bring enough, no wait runs. A survey of one server
at a time, every `FAIRNESS` seconds, then finds tasks of the other shards, so
they do not wait long.

A server or a shard that does not answer is *lost*: consumers continue with the
others, and it is tried again after a back-off. The consumers get an error only
if all servers are lost. They wait for an answer for at most `OVERDUE` seconds
before they take tasks from other shards only.

Timers, hints and parting work as in `torrelque.core.consumers`, for each shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

from torrelque.core.claiming import claim
from torrelque.core.commands import ClaimedTask, cap
from torrelque.core.consumers import BACKOFF, MAX_FAILURES, SLICE, Hint, Look
from torrelque.core.lanes import MAX_CLAIM, Lanes
from torrelque.core.machine import Wait
from torrelque.core.protocol import Arg, Interrupted, Operation, Reply
from torrelque.core.sharding.partners import Node, Shard, tails_of
from torrelque.core.waiters import Waiters
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, is_unavailable

if TYPE_CHECKING:
    from torrelque.core.keys import Keys
    from torrelque.core.merging import Ticket

__all__ = ('FAIRNESS', 'ShardedConsumers')

FAIRNESS = 0.1
"""Seconds after which busy consumers survey the next server, so that all shards with tasks get their turn."""

REGISTERED = 20.0
"""Seconds for which shards ring at a consumer's key after a survey: two slices and some spare time."""

OVERDUE = 1.0
"""Seconds after which consumers stop waiting for an answer if other shards have tasks."""

TOGETHER = 16
"""Number of shards that one command checks for tasks, where all shards are on one server."""

HINTED = 64
"""How many tasks a shard is assumed to have when it rings."""


class ShardedConsumers:
    """Serves waiting consumers, first come, first served, from several shards, each in its turn.

    Each server is in two phases at a time. The transitions of `Look`, for its surveys:

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

    (1) For the server whose last survey is the oldest, every `FAIRNESS` seconds. (2) If Hint is TAKEN: the survey
    rings other clients. (3) NONE if the consumers got the error.

    The transitions of `Hint`:

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

    (4) If a consumer waits, and no shard of the server is expected to have tasks. (5) The shard itself is then
    ``hinted``, until a claim from it begins, or a tick if no consumer waits any more.

    Args:
        node_of: Returns which server has a key now.
        clock: Returns the time in seconds, and never goes back.
        jitter: Returns random numbers from 0 to 1.
        give_back: Called with claimed tasks that no consumer wants any more.
        on_generation: Called with the generation of the layout that a server has recorded; 0 for none.
        block_limit: The longest wait that the transport allows, in seconds.
        max_rejected: Maximum number of dead letters to keep on each shard; None keeps all.
        on_lost: Called with shards that do not answer and the error, or with shards that answer again and None.
        spread: Whether the shards may be on several servers.
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
        *,
        spread: bool = True,
    ) -> None:
        self._node_of = node_of
        self._on_lost = on_lost
        self._on_generation = on_generation
        self._clock = clock
        self._jitter = jitter
        self._max_rejected = max_rejected
        self._longest_slice = min(SLICE, block_limit)
        self._spread = spread
        self._shards: list[Shard] = []
        self._tails: list[bytes] = []  # what the keys that a survey uses have after a shard's name
        self._of_wake: dict[bytes, Shard] = {}
        self._nodes: dict[Hashable, Node] = {}
        self._waiters = Waiters(give_back)
        self._stirred: set[int] = set()  # all shards but those at rest; looking at all of them each time is slow
        self._joined: dict[Ticket, int] = {}  # how many surveys had begun before
        self._surveys = 0
        self._look_wanted = False
        self._surveyed_at = -math.inf
        self._asked = 0  # tasks that claims in flight asked for
        self._turn = 0

    def add(self, lanes: Lanes, keys: Keys) -> None:
        """Add a shard."""
        shard = Shard(len(self._shards), lanes, keys)
        self._shards.append(shard)
        self._tails = tails_of(keys)
        self._look_wanted = bool(self._waiters)
        for member in (shard.wake, shard.wake + b'+'):
            self._of_wake[member] = shard
        self._nodes = {}

    def truncate(self, total: int) -> None:
        """Remove all but the first ``total`` shards."""
        if total < len(self._shards):
            for shard in self._shards[total:]:
                del self._of_wake[shard.wake], self._of_wake[shard.wake + b'+']
            del self._shards[total:]
            self._stirred = {number for number in self._stirred if number < total}
            self._look_wanted = bool(self._waiters)
            self._nodes = {}

    # Callers -----------------------------------------------------------------

    def join(self, ticket: Ticket, want: int, deadline: float, *, stays: bool = True) -> None:
        """Add a consumer that waits for up to ``want`` tasks until ``deadline``; without ``stays``, for one look."""
        self._waiters.join(ticket, want, deadline, stays=stays)
        self._joined[ticket] = self._surveys
        self._look_wanted = True

    def leave(self, ticket: Ticket) -> None:
        """Remove a consumer. Tasks that were claimed for it are given back."""
        self._waiters.leave(ticket)

    # Driver ------------------------------------------------------------------

    def start(self) -> list[tuple[int, Operation[bool]]]:
        """Return what to run now, each with its shard. The operations return whether the server answered."""
        now = self._clock()
        self._waiters.time_out(now)
        self._forget_those_gone()
        if not self._waiters:
            return self._start_parting()
        self._stirred = {number for number in self._stirred if not self._shards[number].rests}
        for shard in self._stirring():
            if shard.alarm <= now or (shard.lost and shard.not_before <= now):
                shard.expected = max(shard.expected, 1)
        self._pass_over(now)
        started = self._start_claims()
        if self._look_wanted and self._waiters.wanted > self._asked:
            self._look_wanted = False
            self._want_surveys()
        return started + self._start_surveys(now, busy=bool(started))

    def waits(self) -> list[Wait]:
        """Return the waits that begin now."""
        now = self._clock()
        waits: list[Wait] = []
        if self._look_wanted or self._waiters.deadline <= now:
            return waits
        active = {shard.number for shard in self._stirring() if shard.active}
        for node in list(self._nodes.values()):
            if node.hint is Hint.BLOCKING or node.look is not Look.NONE or now < node.not_before:
                continue
            if not node.members.isdisjoint(active):
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
        """Return when to call `start` and `waits` again at the latest."""
        times = [self._waiters.expiry]
        if self._waiters:
            # The alarm of an active shard does not count: its claim may have to wait for the answers of others.
            stirring = self._stirring()
            times += [shard.alarm for shard in stirring if not shard.active]
            if self._waiters.wanted > self._asked:  # otherwise they are not tried before another claim is answered
                times += [shard.not_before for shard in stirring if shard.lost and not shard.busy]
            times += [shard.claimed_at + OVERDUE for shard in stirring if shard.asked]
            times += [node.surveyed_at + OVERDUE for node in self._nodes.values() if self._keeps_waiting(node)]
            times += [node.not_before for node in self._nodes.values() if node.look is Look.WANTED]
        return min(times)

    def _stir(self, numbers: Iterable[int]) -> None:
        """Have steps look at shards, except those that are no longer used."""
        self._stirred.update(number for number in numbers if number < len(self._shards))

    def _stirring(self) -> list[Shard]:
        """Return the shards that may not be at rest."""
        return [self._shards[number] for number in sorted(self._stirred)]

    def close(self) -> None:
        """Fail all consumers, because the queue is being closed. The waits, which are cancelled, may take hints."""
        self.abort(TorrelqueError('the queue was closed while waiting for a task'))
        for node in self._nodes.values():
            if node.hint is Hint.BLOCKING:
                node.hint = Hint.TAKEN

    def abort(self, error: Exception) -> None:
        """Fail all consumers, except those that have got some of their tasks: these get what they have."""
        self._look_wanted = False
        self._waiters.abort(error)

    # Waits -------------------------------------------------------------------

    def ended(self, node: Node, member: bytes | None) -> None:
        """Process the end of a wait: a shard rang, or its time was over."""
        if node not in self._nodes.values():  # the shards have moved between servers meanwhile
            self._want_surveys()
        node.failures = 0
        shard = None if member is None else self._of_wake.get(member)
        if shard is not None:
            shard.expected = max(shard.expected, HINTED)
            shard.hinted = True
            self._stir([shard.number])
            node.end_wait(taken=False)
        else:  # the slice is over, or the number of shards has changed
            node.want_survey()
            node.end_wait(taken=member is not None)

    def failed(self, node: Node, error: Exception) -> None:
        """Process a wait that broke. It may have taken a ring; the next survey finds the tasks behind it."""
        node.failures += 1
        node.want_survey()
        node.end_wait(taken=True)
        self._look_wanted = bool(self._waiters)
        node.not_before = self._clock() + BACKOFF.pause(node.failures, self._jitter)
        if not isinstance(error, TorrelqueConnectionError):
            self.abort(error)
        elif node.failures >= MAX_FAILURES:
            self._lose(node, error)

    # Servers and shards that do not answer -----------------------------------

    def _lose(self, partner: Node | Shard, error: Exception) -> None:
        """Record that a server or a shard does not answer. If none answers, the consumers get the error."""
        if not is_unavailable(error):
            self.abort(error)
            return
        is_new, partner.lost = partner.lost is None, error
        if isinstance(partner, Node):
            partner.want_survey()
            for shard in self._stirring():
                if shard.number in partner.members:
                    shard.expected = 0
        else:
            self._stir([partner.number])
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
        """Record that a server or a shard answers."""
        if partner.lost is not None:
            partner.lost, partner.not_before = None, -math.inf
            self._on_lost(partner.shards if isinstance(partner, Node) else [partner.number], None)

    def _node_with(self, shard: Shard) -> Node | None:
        return next((node for node in self._nodes.values() if shard.number in node.members), None)

    def _pass_over(self, now: float) -> None:
        """Stop waiting for answers that are overdue."""
        is_late = False
        for shard in self._stirring():
            if shard.asked and shard.claimed_at + OVERDUE <= now:
                self._asked -= shard.asked
                shard.asked, is_late = 0, True
        if is_late or any(self._is_overdue(node) for node in self._nodes.values()):
            self._hand_out(())

    def _keeps_waiting(self, node: Node) -> bool:
        """Whether a survey is in flight and not overdue."""
        return node.look.is_running and node.surveyed_at + OVERDUE > self._clock()

    # Claims ------------------------------------------------------------------

    def _start_claims(self) -> list[tuple[int, Operation[bool]]]:
        started: list[tuple[int, Operation[bool]]] = []
        first, count = self._turn, len(self._shards)
        missing = self._waiters.wanted - self._asked
        for at in sorted(self._stirred, key=lambda number: (number - first) % count):
            shard = self._shards[at]
            if missing <= 0:
                break
            if shard.busy or not shard.expected or (shard.lost and self._clock() < shard.not_before):
                continue
            if shard.lost:  # only a probe whether it answers again: other shards are asked for the tasks, too
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
            if not self._waiters:  # all have left before it began, so leave the hint and the timer to others
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
        except Exception as error:  # noqa: BLE001 - raised to every waiting caller
            self.abort(error)
        else:
            self._find(shard)
            shard.failures = 0
            if answer.alarm is not None:
                shard.alarm = self._clock() + answer.alarm
            full = answer.again or len(answer.tasks) == asked
            # A ring that came meanwhile may be for tasks that were added after the server ran the claim.
            shard.expected = max(1, shard.expected - asked) if full or shard.hinted else shard.seen
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
        """Leave the shard's timer and hint to others, because no consumer waits any more."""
        shard.expected = 0
        try:
            yield from shard.lanes.script('tick', (shard.lane.number, 0, *cap(self._max_rejected)), bool)
        except (Interrupted, Exception):  # noqa: BLE001 - no caller waits for it
            return False  # the timer expires, and the hint costs others a slice
        return True

    def _hand_out(self, tasks: Sequence[ClaimedTask]) -> None:
        promising = any(self._shards[number].promising for number in self._stirred)
        looked = () if promising else self._looked()
        self._waiters.hand_out(looked, tasks, more=promising)
        self._forget_those_gone()

    def _looked(self) -> Iterable[Ticket]:
        """Return the consumers since whose arrival all shards were surveyed."""
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
        """Look up which server has which shard now. Returns whether that has changed."""
        if self._nodes and not self._spread:
            return False
        groups: dict[Hashable, list[int]] = {}
        try:
            for at, shard in enumerate(self._shards):
                groups.setdefault(self._node_of(shard.wake), []).append(at)
        except Exception as error:  # noqa: BLE001 - raised to every waiting caller
            self.abort(error)
            return False
        if {name: node.shards for name, node in self._nodes.items()} == groups:
            return False
        old = self._nodes
        self._nodes = {
            name: old[name] if name in old and old[name].shards == shards else Node(shards, self._looked_at(shards))
            for name, shards in groups.items()
        }
        return True

    def _looked_at(self, numbers: Sequence[int]) -> Sequence[Arg]:
        """Return the arguments of a survey of these shards, which are on one server, behind the lifetime."""
        shards = [self._shards[number] for number in numbers]
        bells = {shard.bell for shard in shards}
        how: tuple[Arg, ...] = (TOGETHER, *bells) if len(bells) == 1 else (1, b'')
        return (*how, *self._tails, *[shard.name for shard in shards])

    def _want_surveys(self) -> None:
        self._regrouped()
        for node in self._nodes.values():
            node.want_survey()

    def _start_surveys(self, now: float, *, busy: bool) -> list[tuple[int, Operation[bool]]]:
        started: list[tuple[int, Operation[bool]]] = []
        if busy and now - self._surveyed_at > FAIRNESS:
            self._regrouped()  # there may be new shards or servers
            # One server at a time, so that the total cost of surveys does not grow with the number of servers.
            others = [node for node in self._nodes.values() if node.hint is not Hint.BLOCKING]
            if others:
                min(others, key=lambda node: node.surveyed_at).want_survey()
            self._surveyed_at = now
        for node in self._nodes.values():
            if node.look is Look.WANTED and now >= node.not_before:
                node.return_to_slot(now)
                node.look, node.surveyed_at = Look.RUNNING, now
                self._surveyed_at = now
                self._surveys += 1
                started.append((node.first, self._survey(node, self._surveys, REGISTERED)))
        return started

    def _survey(self, node: Node, number: int, registered: float) -> Operation[bool]:
        lead = self._shards[node.first]
        lanes = lead.lanes
        args = (round(registered * 1000), *node.looked_at)
        try:
            generation, findings = yield from lanes.script('survey', args, _findings)
        except (Interrupted, Exception) as error:  # noqa: BLE001 - raised to every waiting caller
            node.look = node.look.over
            cause = error.cause if isinstance(error, Interrupted) else error
            if registered and cause is None:
                self.abort(TorrelqueError('the queue was closed while waiting for a task'))
            elif registered and isinstance(cause, Exception):
                self._regrouped()  # some of the shards may be known to be elsewhere by now
                where = self._node_with(lead)
                if where is not None:  # otherwise the shard is no longer used
                    where.failures += 1
                    if self._spread:
                        where.leave_slot(self._clock())
                    self._lose(where, cause)
            return False
        finally:
            node.look = node.look.over
        self._find(node)
        if registered:
            node.done = number
            if node.hint is Hint.TAKEN:
                node.hint = Hint.ELSEWHERE
            found = {node.shards[place]: finding for place, finding in findings.items()}
            self._stir(found)
            for at in node.members & self._stirred:
                shard = self._shards[at]
                shard.seen = found.get(at, 0)
                if not shard.busy:
                    shard.expected = max(shard.seen, shard.expected if shard.hinted else 0)
            self._hand_out(())
        self._on_generation(generation)
        return True

    def _start_parting(self) -> list[tuple[int, Operation[bool]]]:
        """Leave timers and hints to others, because no consumer waits any more."""
        started: list[tuple[int, Operation[bool]]] = []
        for shard in self._stirring():
            if not shard.busy and (shard.alarm < math.inf or shard.hinted):
                shard.alarm, shard.hinted = math.inf, False
                started.append((shard.number, self._tick(shard)))
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


def _findings(reply: Reply) -> tuple[int, dict[int, int]]:
    """Parse a survey's reply: the generation of the layout, 0 if unknown, and how many tasks to expect of which shards.

    A shard with an event near, or one that could not be read, counts as one task, so that a claim checks it.
    """
    generation, findings = reply
    found = [finding.split(b'=') for finding in findings.split()]
    return int(generation or 0), {int(place): int(count) if count.isdigit() else 1 for place, count in found}
