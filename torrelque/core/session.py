"""Makes the decisions of one queue object: which calls to send, on which lanes, and which caller gets which task.

The driver (the engine, or a simulation) passes on the callers' requests. It runs
what :meth:`Session.poll` returns, reports how waits end, and polls again when
something has changed, at the latest when `poll` said. See `torrelque.core.machine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from torrelque.core.backoff import Backoff
from torrelque.core.claiming import claim
from torrelque.core.commands import ENQUEUE, GIVEBACK, Answer, ClaimedTask, Command, Item, claim_item
from torrelque.core.consumers import SLICE, Consumers
from torrelque.core.durability import CONFIRMED, Confirmer
from torrelque.core.keys import Keys
from torrelque.core.lanes import MAX_CLAIM, Lanes
from torrelque.core.machine import Turn, Wait
from torrelque.core.merging import LARGE, Merger, Ticket
from torrelque.core.models import Receipt
from torrelque.core.protocol import Interrupted, Operation, Reply
from torrelque.core.schedules import Upcoming, refill
from torrelque.core.scripts import ScriptSet
from torrelque.errors import TorrelqueError, TorrelqueTooLargeError, renew

__all__ = ('Session',)

MAX_IN_FLIGHT = 32
"""Maximum number of merged calls in flight. Further requests wait, and are merged meanwhile."""

BULK = 100
"""Number of items from which a merged call is sent alone, because they take far longer than one more call costs."""

MAX_CONFIRMING = 16
"""Maximum number of merged calls that wait for confirmation, each on a dedicated connection."""

REPAIR_BACKOFF = Backoff(0.05, 5.0)
"""Pauses between attempts to settle interrupted calls."""


class Session:
    """The state machine of one queue object. It implements `torrelque.core.machine.Machine`.

    Args:
        scripts: The scripts.
        keys: The keys of the queue, or of a shard.
        nonce: Text without blanks that no other client has.
        clock: Returns the time in seconds, and never goes back.
        jitter: Returns random numbers from 0 to 1.
        block_limit: The longest wait that the transport allows, in seconds.
        max_rejected: Maximum number of dead letters to keep; None keeps all.
        confirmer: Makes writes wait until they are durable; None does not wait.
        in_order: Whether the server receives calls in the order in which they are sent.
        behind: Whether the driver can send a call behind a wait.
        upcoming: Computes times of schedules; None leaves that to other clients.
        on_held: Called with schedules that do not fire until they have moved to another shard.
    """

    def __init__(
        self,
        scripts: ScriptSet,
        keys: Keys,
        *,
        nonce: str,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        block_limit: float = SLICE,
        max_rejected: int | None = None,
        confirmer: Confirmer | None = None,
        in_order: bool = True,
        behind: bool = False,
        upcoming: Upcoming | None = None,
        on_held: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.nonce: str = nonce
        self._clock = clock
        self._behind = behind
        self._scripts = scripts
        self._keys = keys
        self._upcoming = upcoming
        self._on_held = on_held
        self._max_rejected = max_rejected
        self._lanes = Lanes(scripts, keys, nonce)
        self._merger = Merger()
        self._confirmer = confirmer
        self._to_confirm = Merger()
        self._confirming = 0
        self._takers: list[tuple[Ticket, int, bool]] = []  # with whether they were put off
        self._put_off: list[tuple[Ticket, int, bool]] = []  # those that found nothing while tasks are given back
        self._returning = 0  # requests that give tasks back, and have no answer yet
        self._consumers = Consumers(
            self._lanes,
            clock,
            jitter,
            self._give_back_unwanted,
            block_limit,
            max_rejected,
            in_order=in_order,
            behind=behind,
        )
        self._in_flight = 0
        self._serving = 0  # calls for those who wait
        self._owed: list[Item] = []  # claims to give back, because the call that did so was interrupted
        self._repairing = False
        self._closed = False
        self.repair_at: float = math.inf
        """When to settle calls or give claims back, on the session's clock; infinite if there are none."""
        self._repair_failures = 0
        self._jitter = jitter

    @property
    def lanes(self) -> Lanes:
        """The lanes that the calls use."""
        return self._lanes

    @property
    def asked(self) -> bool:
        """Whether requests wait to be sent."""
        return bool(self._merger or self._to_confirm)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do before the next request."""
        left = self._takers or self._consumers.is_active or self._closed or self.repair_at < math.inf
        return not (left or self._merger or self._to_confirm)

    @property
    def is_busy(self) -> bool:
        """Whether calls are in flight."""
        return bool(self._in_flight or self._serving or self._confirming or self._repairing)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is in flight, and nothing left to do."""
        return not (self.is_busy or self.asked or self._takers or self._owed or self._lanes.unsettled)

    # Callers -----------------------------------------------------------------

    def submit(self, command: Command, items: Sequence[Item], wake: Callable[[], None], _shard: int = 0) -> Ticket:
        """Request a command on items, at most ``command.limit``. The ticket will hold a list of answers."""
        ticket = Ticket(items, wake)
        dedicated = self._confirmer is not None and command.name in CONFIRMED
        (self._to_confirm if dedicated else self._merger).add(command, ticket)
        return ticket

    def dequeue(self, want: int, deadline: float, wake: Callable[[], None]) -> Ticket:
        """Request up to ``want`` tasks, and wait until ``deadline``. The ticket will hold a list of at least one."""
        ticket = Ticket((), wake)
        self._consumers.join(ticket, want, deadline)
        return ticket

    def dequeue_nowait(self, want: int, wake: Callable[[], None]) -> Ticket:
        """Request up to ``want`` tasks that are available now. The ticket will hold a list of tasks, perhaps empty."""
        ticket = Ticket((), wake)
        self._takers.append((ticket, want, False))
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Withdraw a request: drop what was not sent, and give back tasks that were claimed for it."""
        ticket.gone = True
        self._consumers.leave(ticket)
        self._give_back_unwanted(
            [task for task in ticket.value or () if isinstance(task, ClaimedTask)] if ticket.done else ()
        )

    def share_waits(self, *, shared: bool) -> None:
        """Set whether waits are shared; see `torrelque.core.machine.Machine`."""
        self._consumers.may_queue = self._behind and not shared

    # Driver ------------------------------------------------------------------

    def poll(self) -> Turn:
        """Return what to run now, where to wait, and when to poll again at the latest."""
        now = self._clock()
        groups: list[list[Operation[None]]] = []
        together = self.begin(now, groups)
        consumers = self._consumers
        active = consumers.is_active
        claiming = consumers.start() if active else None
        if claiming is not None:
            together.insert(0, self.serve(claiming))
        if together:
            groups.append(together)
        dedicated = self.begin_dedicated()
        seconds = consumers.block() if active else None
        waits = () if seconds is None else (Wait(self._keys['wake'], seconds, self, consumers.behind),)
        if self._closed and not (groups or dedicated or self.is_busy):
            groups = self.drop_lanes()
        return Turn(groups, dedicated, waits, min(consumers.timer(), self.repair_at) if active else self.repair_at)

    def begin(self, now: float, groups: list[list[Operation[None]]]) -> list[Operation[None]]:
        """Begin the merged calls and repairs that are due.

        Args:
            now: The time.
            groups: Each large call is added as its own group, so that the server works on one while the next is
                written and the reply to the last one is read.

        Returns:
            The other calls, which can be sent together.
        """
        together: list[Operation[None]] = []
        if self.repair_at <= now:
            self._repairing, self.repair_at = True, math.inf
            together.append(self._repair())
        if self._takers:
            takers, self._takers = self._takers, []
            together += [self.serve(self._take(*taker)) for taker in takers if not taker[0].gone]
        if self._merger:
            for command, tickets in self._merger.take(MAX_IN_FLIGHT - self._in_flight):
                self._in_flight += 1
                operation = self._act(command, tickets)
                if tickets[0].size >= LARGE or sum([len(ticket.items) for ticket in tickets]) >= BULK:
                    groups.append([operation])
                else:
                    together.append(operation)
        return together

    def begin_dedicated(self) -> Sequence[Operation[None]]:
        """Begin the calls that wait for confirmation."""
        if not self._to_confirm:
            return ()
        groups = self._to_confirm.take(MAX_CONFIRMING - self._confirming)
        self._confirming += len(groups)
        return [self._act(command, tickets, self._confirmer) for command, tickets in groups]

    def ended(self, member: bytes | None, reply: Reply = None, /) -> None:
        """Process the end of the wait; see `torrelque.core.machine.Waiting`."""
        self._consumers.unblocked(hinted=member is not None, reply=reply)
        self._repair_soon()  # the claim behind the wait may have found schedules that need times

    def failed(self, error: Exception) -> None:
        """Process a wait that broke."""
        self._consumers.block_failed(error)

    def drop_lanes(self) -> list[list[Operation[None]]]:
        """Return what to run last, with nothing in flight: the operation that removes the lanes from the server."""
        last = self._lanes.drop()
        return [] if last is None else [[last]]

    def close(self) -> None:
        """Fail the consumers that wait. From now on, `poll` returns only what is left to do."""
        self._closed = True
        self._consumers.close()
        if self._owed or self._lanes.unsettled:
            self.repair_at = -math.inf

    def abort(self, error: Exception) -> None:
        """Fail all requests whose calls have not begun."""
        self._consumers.abort(error)
        takers = self._takers + self._put_off
        self._takers, self._put_off = [], []
        groups = [*self._merger.take(math.inf), *self._to_confirm.take(math.inf)]
        waiting = [ticket for _, tickets in groups for ticket in tickets]
        self._fail([ticket for ticket, *_ in takers] + waiting, error)

    # Operations --------------------------------------------------------------

    def _act(self, command: Command, tickets: list[Ticket], confirmer: Confirmer | None = None) -> Operation[None]:
        """Make a merged call; with a ``confirmer``, wait until it is durable."""
        items = [item for ticket in tickets for item in ticket.items]
        try:
            answers = yield from self._answers(command, items, confirmer)
        except Interrupted as interrupted:
            self._fail(tickets, interrupted.cause or TorrelqueError('the queue was closed during the call'))
            if command is GIVEBACK:  # otherwise the claims would stay until their leases end
                self._owed += items
            self._repair_later()
        except Exception as error:  # noqa: BLE001 - raised to every caller
            self._fail(tickets, error)
        else:
            at = 0
            for ticket in tickets:
                own = answers[at : at + len(ticket.items)]
                at += len(ticket.items)
                if len(own) == 1 and isinstance(own[0], TorrelqueTooLargeError):
                    ticket.fail(own[0])
                else:
                    ticket.resolve(own)
            self._repair_soon()
        finally:
            if confirmer is not None:
                self._confirming -= 1
            else:
                self._in_flight -= 1

    def _answers(self, command: Command, items: Sequence[Item], confirmer: Confirmer | None) -> Operation[list[Answer]]:
        """Return the answer for each item of a merged call. If it is too large for the server, make it in parts."""
        try:
            return (yield from self._call(command, items, confirmer))
        except TorrelqueTooLargeError:
            if len(items) == 1:
                raise
        answers: list[Answer] = []
        command = ENQUEUE if command.adds else command  # it may have run, if it is its answer that is too large
        middle = len(items) // 2
        for part in (items[:middle], items[middle:]):
            try:
                answers += yield from self._answers(command, part, confirmer)
            except TorrelqueTooLargeError as error:  # a single item is too large
                answers.append(error)
        return answers

    def _call(self, command: Command, items: Sequence[Item], confirmer: Confirmer | None) -> Operation[list[Answer]]:
        args = command.arguments(items)
        if confirmer is not None:
            return (yield from confirmer.act(command, items, self._lanes.call(command.name, args, command.parse)))
        if command.laned:
            return (yield from self._lanes.call(command.name, args, command.parse))
        return (yield from self._lanes.script(command.name, ('', '', '', *args), command.parse))

    def serve(self, waiting: Operation[bool]) -> Operation[None]:
        """Make an operation of one that serves waiting callers, and returns whether the server answered."""
        self._serving += 1
        return self._serve(waiting)

    def _serve(self, waiting: Operation[bool]) -> Operation[None]:
        try:
            if (yield from waiting):
                self._repair_soon()
            else:
                self._repair_later()
        finally:
            self._serving -= 1

    def _take(self, ticket: Ticket, want: int, was_put_off: bool) -> Operation[bool]:
        """Claim tasks for a caller that does not wait, except for tasks that are being given back.

        A claim for consumers that have left may hold these tasks. Its answer is on its way before ours, but perhaps on
        another connection, so ours is known to be later only if we claim again.
        """
        answered, was_late = False, was_put_off
        got: list[ClaimedTask] = []
        lane = self._lanes.borrow()
        try:
            more = True
            while more and len(got) < want and not ticket.gone:
                asked = min(want - len(got), MAX_CLAIM)
                answer = yield from claim(self._lanes, asked, 0.0, lane, self._clock(), self._max_rejected)
                got += answer.tasks
                more = answer.again or len(answer.tasks) == asked
                if not (got or more or was_late) and self._consumers.is_abandoned:
                    more = was_late = True
        except Interrupted as interrupted:
            self._end_take(ticket, got, interrupted.cause or TorrelqueError('the queue was closed during the call'))
        except Exception as error:  # noqa: BLE001 - raised to the caller
            self._end_take(ticket, got, error)
        else:
            answered = True
            if got or was_put_off or not self._returning:
                self._end_take(ticket, got, None)
            else:
                self._put_off.append((ticket, want, True))
        finally:
            self._lanes.give_back(lane)
        return answered

    def _repair(self) -> Operation[None]:
        """Settle calls, and give back claims, where that failed before. Give schedules more times."""
        try:
            yield from self._lanes.settle_all()
            while self._lanes.needy:
                schedule, _ = self._lanes.needy.popitem()  # if this fails, a later claim reports it again
                if self._upcoming is not None and not (
                    yield from refill(self._scripts, self._keys, schedule, self._upcoming)
                ):
                    self._on_held(schedule.decode(errors='replace'))
            while self._owed:
                items = self._owed[: GIVEBACK.limit]
                yield from self._lanes.call(GIVEBACK.name, GIVEBACK.arguments(items), GIVEBACK.parse)
                done = set(items)  # closing begins another repair beside this one
                self._owed = [item for item in self._owed if item not in done]
        except (Interrupted, Exception):  # noqa: BLE001 - there is another attempt in any case
            self._repairing = False
            self._repair_later()
        else:
            self._repairing = False
            self._repair_failures = 0
            self._repair_soon()  # other calls may have been interrupted meanwhile

    # Within ------------------------------------------------------------------

    def _end_take(self, ticket: Ticket, got: list[ClaimedTask], error: Exception | None) -> None:
        if ticket.gone:
            self._give_back_unwanted(got)
        elif got or error is None:
            ticket.resolve(got)
        else:
            ticket.fail(renew(error))

    def _give_back_unwanted(self, tasks: Iterable[ClaimedTask]) -> None:
        receipts: list[Receipt] = [task.receipt for task in tasks]
        for first in range(0, len(receipts), GIVEBACK.limit):
            part = receipts[first : first + GIVEBACK.limit]
            self._returning += 1
            self.submit(GIVEBACK, [claim_item(receipt) for receipt in part], self._returned)

    def _returned(self) -> None:
        """Have those claim again that found nothing while tasks were given back."""
        self._returning -= 1
        self._takers += self._put_off
        self._put_off = []

    def _repair_later(self) -> None:
        if (self._owed or self._lanes.unsettled) and not self._repairing:
            self._repair_failures += 1
            pause = REPAIR_BACKOFF.pause(self._repair_failures, self._jitter)
            self.repair_at = min(self.repair_at, self._clock() + pause)

    def _repair_soon(self) -> None:
        """Repair at once what is left, because the server answers."""
        if (self._owed or self._lanes.unsettled or self._lanes.needy) and not self._repairing:
            self.repair_at = self._clock()

    @staticmethod
    def _fail(tickets: list[Ticket], error: Exception) -> None:
        for ticket in tickets:
            ticket.fail(renew(error))
