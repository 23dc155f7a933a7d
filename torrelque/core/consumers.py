"""The consumers that wait for tasks: one wait for all of them, and one lane.

The machine claims for as many as wait; when nothing is there it asks for one
blocking wait on the queue's hint, and claims again when that ends, when an
event that it minds is due, or when another consumer joins. It never polls.
While there is plenty a second claim may be under way, on another lane.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torrelque.core.backoff import Backoff
from torrelque.core.commands import ClaimedTask, cap
from torrelque.core.lanes import MAX_CLAIM, Lane, Lanes
from torrelque.core.models import Receipt
from torrelque.core.protocol import Interrupted, Operation, Reply
from torrelque.core.waiters import Waiters
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueTooLargeError

if TYPE_CHECKING:
    from torrelque.core.merging import Ticket

__all__ = ('BACKOFF', 'LEAST_BESIDE', 'MAX_CLAIM', 'MAX_FAILURES', 'SLICE', 'Claim', 'Consumers', 'claim')

SLICE = 8.0
"""Longest wait on the hint, in seconds; a task that gave none (a 0.9 producer's) waits no longer than this."""

LEAST_BESIDE = 16
"""Tasks for which a claim begins beside another: the server could take some five more for what a call costs it."""

FOREVER = 86400.0
MAX_FAILURES = 4
"""So many waits in a row may break before those who wait are told."""

BACKOFF = Backoff(0.1, 4.0)
"""Pauses after waits that broke. Well below a slice: consumers hear of tasks that soon once waits work again."""


class Claim:
    """What a claim answered."""

    __slots__ = ('again', 'alarm', 'tasks', 'time')

    def __init__(self, tasks: list[ClaimedTask], alarm: float | None, again: bool, time: float) -> None:
        self.tasks: list[ClaimedTask] = tasks
        self.alarm: float | None = alarm
        self.again: bool = again
        self.time: float = time  # on the server's clock


def claim(
    lanes: Lanes, want: int, willing: float, lane: Lane, sent: float, max_rejected: int | None = None
) -> Operation[Claim]:
    """Claim up to ``want`` tasks for somebody who would wait ``willing`` seconds more.

    ``sent``: the time now; ``max_rejected``: the most dead letters to be kept.
    If the answer is too large for the server, what was claimed goes back, and
    fewer tasks are asked for, then and later.
    """

    def parse(reply: Reply) -> Claim:
        alarm, again, time, *values = reply
        token = f'{lane.number}:{lane.nonce}:{lane.sequence}'
        offset = sent - float(time)
        tasks = [
            ClaimedTask(
                Receipt(task_id.decode(), token, int(count)),
                payload,
                float(deadline),
                headers,
                float(deadline) + offset,
                max(1, int(attempt)),
            )
            for task_id, payload, count, deadline, headers, attempt in zip(*[iter(values)] * 6, strict=True)
        ]
        return Claim(tasks, float(alarm) if alarm else None, bool(again), float(time))

    while True:
        asked = min(want, lanes.claim_limit)
        args = (asked, f'{min(willing, FOREVER):.6f}', *cap(max_rejected))
        try:
            answer = yield from lanes.call('claim', args, parse, lane)
        except TorrelqueTooLargeError:
            if asked == 1:
                raise
            lanes.claim_limit = asked // 2
            continue
        if asked < want and len(answer.tasks) == asked:
            answer.again = True
            lanes.claim_limit += 1  # the next tasks may be smaller
        return answer


class _Sent:
    """A claim for ``want`` tasks on behalf of those ``served``; ``over`` once it was answered or failed."""

    __slots__ = ('answer', 'over', 'served', 'want')

    def __init__(self, want: int, served: list[Ticket]) -> None:
        self.want: int = want
        self.served: list[Ticket] = served
        self.answer: Claim | None = None
        self.over: bool = False


def _when(sent: _Sent) -> float:
    return math.inf if sent.answer is None else sent.answer.time


class Consumers:
    """Serves waiting consumers, first come first served.

    ``clock`` counts seconds, ``jitter`` gives numbers from 0 to 1, ``give_back``
    takes claims that nobody is there for any more; ``max_rejected`` is the most
    dead letters to be kept. Without ``in_order`` one claim may overtake another
    that was sent before it, so only one is under way at a time.
    """

    def __init__(
        self,
        lanes: Lanes,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        give_back: Callable[[Sequence[ClaimedTask]], None],
        block_limit: float = SLICE,
        max_rejected: int | None = None,
        *,
        in_order: bool = True,
    ) -> None:
        self._lanes = lanes
        self._max_rejected = max_rejected
        self._clock = clock
        self._jitter = jitter
        self._longest_slice = min(SLICE, block_limit)
        self._lane = Lane()
        self._least_beside = LEAST_BESIDE if in_order else math.inf
        self._waiters = Waiters(give_back)
        self._busy = False
        self._asked = 0  # tasks that the claims in flight may bring
        self._sent: deque[_Sent] = deque()  # claims that were not handed out yet, in the order in which they were sent
        self._beside = False  # a claim is in flight on another lane, beside the one on ours
        self._plenty = False  # the last claim that was answered brought all that it asked for
        self._claim_wanted = False
        self._blocking = False
        self._alarm = math.inf  # when an event is due that the server counts on us to mind
        self._hint_taken = False  # a hint that no claim began after: if nobody here can use it, it must be put back
        self._failures = 0
        self._block_not_before = -math.inf

    # Callers -----------------------------------------------------------------

    def join(self, ticket: Ticket, want: int, deadline: float) -> None:
        """Wait for up to ``want`` tasks until ``deadline`` (maybe infinite)."""
        self._waiters.join(ticket, want, deadline)
        self._claim_wanted = True

    def leave(self, ticket: Ticket) -> None:
        """The caller has gone. What was already claimed for it goes back."""
        self._waiters.leave(ticket)

    # Driver ------------------------------------------------------------------

    def start(self) -> Operation[bool] | None:
        """What to run now, if anything. It returns whether the server answered."""
        now = self._clock()
        self._waiters.time_out(now)
        if self._busy:
            return self._start_beside()
        if self._sent and self._sent[-1].over:  # that was answered early is handed out before another begins
            return None
        if self._waiters:
            if (self._claim_wanted or self._alarm <= now) and self._waiters.wanted > self._asked:
                self._busy = True
                self._claim_wanted = False
                self._hint_taken = False
                self._alarm = math.inf
                return self._claim(self._ask())
        elif self._alarm < math.inf or self._hint_taken:
            self._busy = True
            self._alarm = math.inf
            self._hint_taken = False
            return self._part()
        return None

    def _start_beside(self) -> Operation[bool] | None:
        """Those who joined since the claim began need not wait for its answer while there is plenty.

        The server then has the next claim when it is done with this one. It minds no event.
        """
        if (
            len(self._sent) > 1
            or self._beside
            or not self._plenty
            or self._waiters.wanted - self._asked < self._least_beside
        ):
            return None
        self._beside = True
        return self._claim_beside(self._ask())

    def block(self) -> float | None:
        """For how long to wait on the hint now; None while no wait should begin. To be followed by `unblocked`."""
        now = self._clock()
        if self._blocking or self._claiming or self._claim_wanted or not self._waiters or now < self._block_not_before:
            return None
        self._blocking = True
        longest = min(self._longest_slice, self._waiters.deadline - now)
        return max(0.001, longest * (1 - 0.15 * self._jitter()))

    def unblocked(self, hinted: bool) -> None:
        """The wait ended, by a hint or with its time."""
        self._blocking = False
        self._failures = 0
        self._claim_wanted = bool(self._waiters)
        self._hint_taken = self._hint_taken or hinted

    def block_failed(self, error: Exception) -> None:
        """The wait broke. A hint may be lost with it; the claim that follows finds what it told of."""
        self._blocking = False
        self._failures += 1
        self._claim_wanted = bool(self._waiters)
        self._hint_taken = True
        self._block_not_before = self._clock() + BACKOFF.pause(self._failures, self._jitter)
        if self._failures >= MAX_FAILURES or not isinstance(error, TorrelqueConnectionError):
            self.abort(error)

    def timer(self) -> float:
        """When to call `start` and `block` again at the latest, whatever happens."""
        times = [self._waiters.expiry]
        if self._waiters and not self._claiming:
            times.append(self._alarm)
            if not self._blocking:
                times.append(self._block_not_before)
        return min(times)

    def close(self) -> None:
        """The queue object is being closed: fail those who wait; the wait that is cancelled may take a hint along."""
        self.abort(TorrelqueError('the queue was closed while waiting for a task'))
        self._hint_taken = self._hint_taken or self._blocking
        self._blocking = False

    # Within ------------------------------------------------------------------

    @property
    def _claiming(self) -> bool:
        return self._busy or self._beside or bool(self._sent)

    def _ask(self) -> int:
        """How many to claim of those that are missing. They count as asked for until the claim was answered."""
        want = min(MAX_CLAIM, self._waiters.wanted - self._asked)
        self._asked += want
        return want

    def _claim(self, want: int) -> Operation[bool]:
        if not self._waiters:  # all have left before it began; what it was for, a hint or the timer, is left to others
            self._asked -= want
            return (yield from self._part())
        try:
            return (yield from self._claim_for(want, max(0.0, self._waiters.deadline - self._clock()), self._lane))
        finally:
            self._busy = False

    def _claim_beside(self, want: int) -> Operation[bool]:
        lane = self._lanes.borrow()
        try:
            return (yield from self._claim_for(want, 0.0, lane))
        finally:
            self._beside = False
            self._lanes.give_back(lane)

    def _claim_for(self, want: int, willing: float, lane: Lane) -> Operation[bool]:
        sent = _Sent(want, self._waiters.now_there())
        self._sent.append(sent)
        try:
            sent.answer = yield from claim(self._lanes, want, willing, lane, self._clock(), self._max_rejected)
        except Interrupted as interrupted:
            self.abort(interrupted.cause or TorrelqueError('the queue was closed while waiting for a task'))
            return False
        except Exception as error:  # noqa: BLE001 - it is told to every waiting caller
            self.abort(error)
            return False
        finally:
            sent.over = True
            self._hand_out_in_order()
        return True

    def _hand_out_in_order(self) -> None:
        """Hand out what claims brought in the order in which the server did them; Trio resumes tasks in any order."""
        over: list[_Sent] = []
        while self._sent and self._sent[0].over:
            over.append(self._sent.popleft())
        # One that made its lane first was sent later than it seems.
        for sent in sorted(over, key=_when):
            self._asked -= sent.want
            if sent.answer is not None:
                self._hand_out(sent.served, sent.answer, sent.want)

    def _hand_out(self, served: list[Ticket], answer: Claim, want: int) -> None:
        if answer.alarm is not None:
            self._alarm = self._clock() + answer.alarm
        self._plenty = len(answer.tasks) == want
        more = answer.again or self._plenty
        self._waiters.hand_out(served, answer.tasks, more=more or self._asked > 0)
        self._claim_wanted = self._claim_wanted or (more and bool(self._waiters))

    def _part(self) -> Operation[bool]:
        """Nobody waits any more: leave the timer and the hint to others."""
        try:
            yield from self._lanes.script('tick', (self._lane.number, 0, *cap(self._max_rejected)), bool)
        except (Interrupted, Exception):  # noqa: BLE001 - whatever it is, nobody waits for it
            return False  # the timer expires by itself, the hint costs others a slice
        else:
            return True
        finally:
            self._busy = False

    def abort(self, error: Exception) -> None:
        """Tell all who wait; what was claimed for one that wants more is its."""
        self._claim_wanted = False
        self._waiters.abort(error)
