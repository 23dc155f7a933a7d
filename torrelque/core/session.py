"""All that one queue object decides: which calls to make now, on which lanes, who gets which task, what goes back.

The driver (the engine, or a simulation) passes on what callers ask for. It runs
what :meth:`Session.poll` returns, reports how waits ended, and polls again when
something changed, and no later than `poll` said (see `torrelque.core.machine`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from torrelque.core.backoff import Backoff
from torrelque.core.claiming import claim
from torrelque.core.commands import GIVEBACK, Answer, ClaimedTask, Command, Item, claim_item
from torrelque.core.consumers import SLICE, Consumers
from torrelque.core.durability import CONFIRMED, Confirmer
from torrelque.core.keys import Keys
from torrelque.core.lanes import MAX_CLAIM, Lanes
from torrelque.core.machine import Turn, Wait
from torrelque.core.merging import LARGE, Merger, Ticket
from torrelque.core.models import Receipt
from torrelque.core.protocol import Interrupted, Operation, Reply
from torrelque.core.scripts import ScriptSet
from torrelque.errors import TorrelqueError, TorrelqueTooLargeError, renew

__all__ = ('Session',)

MAX_IN_FLIGHT = 32
"""Merged calls under way at once. What is asked for beyond waits, and is merged."""

BULK = 100
"""Items of one command from which on a merged call is run by itself: they take far longer than one more call costs."""

MAX_CONFIRMING = 16
"""Merged calls that wait for their confirmation at once, each on a connection of its own."""

REPAIR_BACKOFF = Backoff(0.05, 5.0)
"""Pauses between attempts to settle what was cut off."""


class Session:
    """The state machine of one queue object.

    ``nonce`` is text without blanks that no other client has; ``clock`` counts
    seconds and never goes back; ``jitter`` gives random numbers from 0 to 1;
    ``block_limit`` is the longest wait that the transport allows, ``max_rejected``
    the most dead letters to be kept. With a ``confirmer`` writes wait until they
    are durable. With ``behind`` the driver can send a call behind a wait.
    Without ``in_order`` one claim may overtake another that was sent before it.
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
    ) -> None:
        self._clock = clock
        self._wake_key = keys['wake']
        self._max_rejected = max_rejected
        self._lanes = Lanes(scripts, keys, nonce)
        self._merger = Merger()
        self._confirmer = confirmer
        self._to_confirm = Merger()
        self._confirming = 0
        self._takers: list[tuple[Ticket, int]] = []
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
        self._owed: list[Item] = []  # claims to give back whose call was cut off
        self._repairing = False
        self._closed = False
        self.repair_at: float = math.inf
        """When something is to be repaired, on the session's clock."""
        self._repair_failures = 0
        self._jitter = jitter

    @property
    def lanes(self) -> Lanes:
        """The lanes that its calls run on."""
        return self._lanes

    @property
    def asked(self) -> bool:
        """Whether calls wait to be started."""
        return bool(self._merger or self._to_confirm)

    @property
    def is_busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._in_flight or self._serving or self._confirming or self._repairing)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way, and nothing left to do."""
        return not (self.is_busy or self.asked or self._takers or self._owed or self._lanes.unsettled)

    # Callers -----------------------------------------------------------------

    def submit(self, command: Command, items: Sequence[Item], wake: Callable[[], None], _shard: int = 0) -> Ticket:
        """Ask for a command on at most ``command.limit`` items. The ticket's value will be a list of answers."""
        ticket = Ticket(items, wake)
        dedicated = self._confirmer is not None and command.name in CONFIRMED
        (self._to_confirm if dedicated else self._merger).add(command, ticket)
        return ticket

    def dequeue(self, want: int, deadline: float, wake: Callable[[], None]) -> Ticket:
        """Wait for up to ``want`` tasks until ``deadline``. The value will be a list of at least one."""
        ticket = Ticket((), wake)
        self._consumers.join(ticket, want, deadline)
        return ticket

    def dequeue_nowait(self, want: int, wake: Callable[[], None]) -> Ticket:
        """Take up to ``want`` tasks that are there. The value will be a list, perhaps empty."""
        ticket = Ticket((), wake)
        self._takers.append((ticket, want))
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The caller has gone. What was not sent is dropped; tasks claimed for it are given back."""
        ticket.gone = True
        self._consumers.leave(ticket)
        self._give_back_unwanted(
            [task for task in ticket.value or () if isinstance(task, ClaimedTask)] if ticket.done else ()
        )

    # Driver ------------------------------------------------------------------

    def poll(self) -> Turn:
        """What to run now, where to wait, and when to come back at the latest."""
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
        waits = () if seconds is None else (Wait(self._wake_key, seconds, self, consumers.behind),)
        if self._closed and not (groups or dedicated or self.is_busy):
            groups = self.drop_lanes()
        return Turn(groups, dedicated, waits, min(consumers.timer(), self.repair_at) if active else self.repair_at)

    def begin(self, now: float, groups: list[list[Operation[None]]]) -> list[Operation[None]]:
        """Begin the merged calls and repairs that are due; returns those that may travel together.

        Adds to ``groups`` each call that is so large that it is to be run by itself: the server then works on one
        while the next is written and the answers of the last are read.
        """
        together: list[Operation[None]] = []
        if self.repair_at <= now:
            self._repairing, self.repair_at = True, math.inf
            together.append(self._repair())
        if self._takers:
            takers, self._takers = self._takers, []
            together += [self.serve(self._take(ticket, want)) for ticket, want in takers if not ticket.gone]
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
        """Begin the calls that wait for their confirmation."""
        if not self._to_confirm:
            return ()
        groups = self._to_confirm.take(MAX_CONFIRMING - self._confirming)
        self._confirming += len(groups)
        return [self._act(command, tickets, self._confirmer) for command, tickets in groups]

    def ended(self, member: bytes | None, reply: Reply = None, /) -> None:
        """The wait ended, by a hint or with its time; ``reply`` is that of the call behind it."""
        self._consumers.unblocked(hinted=member is not None, reply=reply)

    def failed(self, error: Exception) -> None:
        """The wait broke."""
        self._consumers.block_failed(error)

    def drop_lanes(self) -> list[list[Operation[None]]]:
        """What to run last, when nothing is under way: the server need not keep the lanes."""
        last = self._lanes.drop()
        return [] if last is None else [[last]]

    def close(self) -> None:
        """Fail those who wait for tasks. What `poll` returns from now on is the last to run."""
        self._closed = True
        self._consumers.close()
        if self._owed or self._lanes.unsettled:
            self.repair_at = -math.inf

    def abort(self, error: Exception) -> None:
        """Fail all whose calls have not begun."""
        self._consumers.abort(error)
        takers, self._takers = self._takers, []
        groups = [*self._merger.take(math.inf), *self._to_confirm.take(math.inf)]
        waiting = [ticket for _, tickets in groups for ticket in tickets]
        self._fail([ticket for ticket, _ in takers] + waiting, error)

    # Operations --------------------------------------------------------------

    def _act(self, command: Command, tickets: list[Ticket], confirmer: Confirmer | None = None) -> Operation[None]:
        """One merged call; with a ``confirmer`` one that waits."""
        items = [item for ticket in tickets for item in ticket.items]
        try:
            answers = yield from self._answers(command, items, confirmer)
        except Interrupted as interrupted:
            self._fail(tickets, interrupted.cause or TorrelqueError('the queue was closed during the call'))
            if command is GIVEBACK:  # nobody else would: the claims would stay until their leases expire
                self._owed += items
            self._repair_later()
        except Exception as error:  # noqa: BLE001 - every caller gets it
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
        """The answer to each item of a merged call, which is made in parts if it is too large for the server."""
        try:
            return (yield from self._call(command, items, confirmer))
        except TorrelqueTooLargeError:
            if len(items) == 1:
                raise
        answers: list[Answer] = []
        middle = len(items) // 2
        for part in (items[:middle], items[middle:]):
            try:
                answers += yield from self._answers(command, part, confirmer)
            except TorrelqueTooLargeError as error:  # of the one item that is left
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
        """A call for those who wait, which tells them what came of it and returns whether the server answered."""
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

    def _take(self, ticket: Ticket, want: int) -> Operation[bool]:
        """Claim for a caller that does not wait."""
        answered = False
        got: list[ClaimedTask] = []
        lane = self._lanes.borrow()
        try:
            more = True
            while more and len(got) < want and not ticket.gone:
                asked = min(want - len(got), MAX_CLAIM)
                answer = yield from claim(self._lanes, asked, 0.0, lane, self._clock(), self._max_rejected)
                got += answer.tasks
                more = answer.again or len(answer.tasks) == asked
        except Interrupted as interrupted:
            self._end_take(ticket, got, interrupted.cause or TorrelqueError('the queue was closed during the call'))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            self._end_take(ticket, got, error)
        else:
            self._end_take(ticket, got, None)
            answered = True
        finally:
            self._lanes.give_back(lane)
        return answered

    def _repair(self) -> Operation[None]:
        """Settle calls and give back claims that could not be when their connection broke."""
        try:
            yield from self._lanes.settle_all()
            while self._owed:
                items = self._owed[: GIVEBACK.limit]
                yield from self._lanes.call(GIVEBACK.name, GIVEBACK.arguments(items), GIVEBACK.parse)
                del self._owed[: len(items)]
        except (Interrupted, Exception):  # noqa: BLE001 - there is another attempt, whatever it was
            self._repairing = False
            self._repair_later()
        else:
            self._repairing = False
            self._repair_failures = 0
            self._repair_soon()  # of what was cut off meanwhile

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
            self.submit(GIVEBACK, [claim_item(receipt) for receipt in part], _nobody)

    def _repair_later(self) -> None:
        if (self._owed or self._lanes.unsettled) and not self._repairing:
            self._repair_failures += 1
            pause = REPAIR_BACKOFF.pause(self._repair_failures, self._jitter)
            self.repair_at = min(self.repair_at, self._clock() + pause)

    def _repair_soon(self) -> None:
        """A call got through, so what is left to repair can be."""
        if (self._owed or self._lanes.unsettled) and not self._repairing:
            self.repair_at = self._clock()

    @staticmethod
    def _fail(tickets: list[Ticket], error: Exception) -> None:
        for ticket in tickets:
            ticket.fail(renew(error))


def _nobody() -> None:
    """Wakes nobody: the caller of a ticket that nobody waits for."""
