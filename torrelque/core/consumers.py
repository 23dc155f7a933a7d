"""The consumers that wait for tasks: one wait for all of them, and one lane.

Theory of operation. All consumers of one queue object that wait for tasks share
a claim and a blocking wait. `Consumers` claims as many tasks as they want and
hands them out, first come, first served. If a claim brings fewer tasks than it
asked for, there are no more. Then `Consumers` waits on the server for the
queue's hint, a key to which every script that makes work for somebody adds. A
hint, the end of the slice, or another consumer leads to the next claim. So an
idle object sends one wait and one claim a slice, whatever the number of its
consumers, and it never polls.

A claim that found nothing may take the queue's *timer*: it returns an *alarm*,
the time until the next delayed task is due or the next lease ends. Other idle
objects rely on this one to claim at that time.

A hint wakes one object only, and the wait removes it. So an object that has
taken a hint, or holds the timer, owes a claim. If its last consumer leaves
before the claim, it *parts*: it sends a ``tick``, which renews the hint for
others. The same applies if a wait breaks, because the server may have given
the hint to the dying connection.

A transport may support *the claim behind the wait*: the next claim travels with
the wait, in one write, and the server runs it when the wait ends. So a task is
on its way as soon as its hint is there, without another round trip, and no
claim is needed between two slices. This claim uses the object's own lane. A
consumer that joins meanwhile claims on another lane, and a ``tick`` minds the
timer. If the wait breaks, or the claim's reply is an error, the same claim is
sent again as the next look: the lane makes that safe, whether or not the server
has run it. If nobody waits then, it is settled.

While claims bring all that they ask for, a second claim may be in flight on
another lane, for consumers that joined since the first one began. The server
then works on it while the client hands out what the first one brought.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING

from torrelque.core.backoff import Backoff
from torrelque.core.claiming import FOREVER, Claim, claim
from torrelque.core.commands import ClaimedTask, cap
from torrelque.core.lanes import MAX_CLAIM, Lane, Lanes
from torrelque.core.protocol import Batch, Call, Interrupted, Operation, Reply, as_is, resume
from torrelque.core.waiters import Waiters
from torrelque.errors import TorrelqueConnectionError, TorrelqueError

if TYPE_CHECKING:
    from torrelque.core.merging import Ticket

__all__ = ('BACKOFF', 'LEAST_BESIDE', 'MAX_FAILURES', 'SLICE', 'Consumers', 'Hint', 'Look')

SLICE = 8.0
"""Longest wait on the hint, in seconds; a task that gave none (a 0.9 producer's) waits no longer than this."""

LEAST_BESIDE = 16
"""Tasks for which a claim begins beside another: the server could take some five more for what a call costs it."""

MOST_BEHIND = 2
"""Maximum number of tasks in a claim behind a wait. A client that vanishes in silence can capture that many."""

MAX_FAILURES = 4
"""Number of waits in a row that may break before waiting callers get an error."""

BACKOFF = Backoff(0.1, 4.0)
"""Pauses after waits that broke. Well below a slice: consumers hear of tasks that soon once waits work again."""


class Look(Enum):
    """Whether somebody has to look for tasks: a claim for `Consumers`, a survey of a server for `ShardedConsumers`."""

    NONE = auto()
    WANTED = auto()
    """It begins with the next poll."""
    RUNNING = auto()
    RUNNING_WANTED = auto()
    """It runs, and another is wanted when it has ended."""

    @property
    def is_wanted(self) -> bool:
        return self is Look.WANTED or self is Look.RUNNING_WANTED

    @property
    def is_running(self) -> bool:
        return self is Look.RUNNING or self is Look.RUNNING_WANTED

    @property
    def and_wanted(self) -> Look:
        """When one is wanted."""
        return Look.RUNNING_WANTED if self.is_running else Look.WANTED

    @property
    def not_wanted(self) -> Look:
        """When nobody wants one any more."""
        return Look.RUNNING if self.is_running else Look.NONE

    @property
    def over(self) -> Look:
        """When the one that runs has ended."""
        return Look.WANTED if self.is_wanted else Look.NONE


class Hint(Enum):
    """Where the hint is, as far as this object is concerned."""

    ELSEWHERE = auto()
    BLOCKING = auto()
    """A wait for it is on the server."""
    TAKEN = auto()
    """A wait has, or may have, removed it, and nobody has looked since: it is owed to others."""


class _Sent:
    """A claim for ``want`` tasks on behalf of those ``served``; ``over`` once it was answered or failed."""

    __slots__ = ('answer', 'over', 'served', 'want')

    def __init__(self, want: int, served: list[Ticket]) -> None:
        self.want: int = want
        self.served: list[Ticket] = served
        self.answer: Claim | None = None
        self.over: bool = False


class _Behind:
    """A claim behind a wait, or left over from one: for ``want`` tasks; ``batch`` is what it sends next."""

    __slots__ = ('batch', 'claiming', 'sent_at', 'want')

    def __init__(self, want: int, sent_at: float) -> None:
        self.want: int = want
        self.sent_at: float = sent_at
        self.claiming: Operation[Claim]
        self.batch: Batch


def _when(sent: _Sent) -> float:
    return math.inf if sent.answer is None else sent.answer.time


class Consumers:
    """Serves waiting consumers, first come first served.

    It has two phases at a time. What happens to `Look`, for claims on its own lane:

    ====================  ==============  ==============  ==============  ==============
    event                 NONE            WANTED          RUNNING         RUNNING_WANTED
    ====================  ==============  ==============  ==============  ==============
    a consumer joins      WANTED          --              RUNNING_WANTED  --
    a wait ends           WANTED (1)      --              RUNNING_WANTED  --
    ... with an answer    --              --              --              --
    a wait breaks         WANTED (1)      --              RUNNING_WANTED  --
    poll, consumers wait  --              RUNNING         -- (2)          -- (2)
    poll, alarm is due    RUNNING         RUNNING         --              --
    poll, nobody waits    RUNNING (3)     RUNNING (3)     --              --
    answer, all it asked  --              --              WANTED          WANTED
    answer, fewer tasks   --              --              NONE            WANTED
    it fails, abort       NONE            NONE            NONE            NONE
    ====================  ==============  ==============  ==============  ==============

    (1) If somebody waits. (2) While there is plenty, a claim begins on another lane. (3) The tick of an object
    that parts, if it has an alarm or a hint that it took.

    If a claim is behind the wait, a poll in WANTED claims on another lane, and one with an alarm that is due sends a
    ``tick``. A claim that a wait left over is gone on with in the next poll, whatever Look is, unless it is RUNNING.

    What happens to `Hint`:

    ====================  ==============  ==============  ==============
    event                 ELSEWHERE       BLOCKING        TAKEN
    ====================  ==============  ==============  ==============
    poll, Look is NONE    BLOCKING (4)    --              --
    a hint ends the wait  --              TAKEN           --
    ... with an answer    --              ELSEWHERE       --
    the slice ends        --              ELSEWHERE       --
    the wait breaks       --              TAKEN           --
    a claim or tick runs  --              --              ELSEWHERE
    close                 --              TAKEN           --
    ====================  ==============  ==============  ==============

    (4) If somebody waits, no claim is in flight on another lane, and the pause after a broken wait is over.

    ``clock`` counts seconds, ``jitter`` gives numbers from 0 to 1, ``give_back``
    takes claims that nobody is there for any more; ``max_rejected`` is the most
    dead letters to be kept. With ``behind`` the driver can send a claim behind a
    wait. Without ``in_order`` one claim may overtake another that was sent before
    it, so only one is under way at a time.
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
        behind: bool = False,
    ) -> None:
        self._lanes = lanes
        self._may_queue = behind
        self._behind: _Behind | None = None  # the claim behind the wait that is on the server
        self._left: _Behind | None = None  # one that a wait left over: the next look goes on with it
        self._ticked = False  # during the wait that is on the server
        self._last_claim = (-math.inf, 0.0)  # when the last answered claim was sent, and when the server ran it
        self._max_rejected = max_rejected
        self._clock = clock
        self._jitter = jitter
        self._longest_slice = min(SLICE, block_limit)
        self._lane = Lane()
        self._least_beside = LEAST_BESIDE if in_order else math.inf
        self._waiters = Waiters(give_back)
        self._look = Look.NONE
        self._hint = Hint.ELSEWHERE
        self._asked = 0  # tasks that the claims in flight may bring
        self._sent: deque[_Sent] = deque()  # claims that were not handed out yet, in the order in which they were sent
        self._beside = False  # a claim is in flight on another lane, beside the one on ours
        self._plenty = False  # the last claim that was answered brought all that it asked for
        self._alarm = math.inf  # when the event is due that this client waits for
        self._failures = 0
        self._block_not_before = -math.inf
        self.is_active: bool = False
        """Without it there is nothing to start, to wait for or to be timed, until somebody joins."""

    # Callers -----------------------------------------------------------------

    def join(self, ticket: Ticket, want: int, deadline: float) -> None:
        """Wait for up to ``want`` tasks until ``deadline`` (maybe infinite)."""
        self.is_active = True
        self._waiters.join(ticket, want, deadline)
        self._look = self._look.and_wanted

    def leave(self, ticket: Ticket) -> None:
        """The caller has gone. What was already claimed for it goes back."""
        self._waiters.leave(ticket)

    # Driver ------------------------------------------------------------------

    def start(self) -> Operation[bool] | None:
        """What to run now, if anything. It returns whether the server answered."""
        now = self._clock()
        self._waiters.time_out(now)
        if self._look.is_running:
            return self._start_beside()
        if self._sent and self._sent[-1].over:  # that was answered early is handed out before another begins
            return None
        if self._left is not None:
            return self._go_on()
        if not self._waiters:
            return self._part()
        if self._look is Look.WANTED or self._alarm <= now:
            return self._claim_elsewhere(now) if self._behind is not None else self._claim_here()
        return None

    def _part(self) -> Operation[bool] | None:
        """Nobody waits any more: leave the timer and the hint to others."""
        if self._alarm == math.inf and self._hint is not Hint.TAKEN:
            return None
        self._begin_look()
        return self._tick()

    def _go_on(self) -> Operation[bool]:
        """With the claim that a wait left over."""
        left, self._left = self._left, None
        assert left is not None  # noqa: S101 - as the caller has seen
        if not self._waiters:  # a hint that is taken remains so: a tick follows
            self._look = Look.RUNNING
            return self._settle(left)
        self._asked += left.want
        self._begin_look()
        return self._claim_left(left)

    def _claim_here(self) -> Operation[bool] | None:
        if self._waiters.wanted <= self._asked:
            return None
        self._begin_look()
        return self._claim(self._ask())

    def _claim_elsewhere(self, now: float) -> Operation[bool] | None:
        """Our lane is in use by the claim behind the wait, and its timer goes on."""
        if self._alarm <= now:  # what is due then gives a hint, which ends the wait
            is_wanted = self._look.is_wanted
            self._begin_look()
            self._look = Look.RUNNING_WANTED if is_wanted else Look.RUNNING
            self._ticked = True
            return self._tick()
        if self._waiters.wanted <= self._asked:
            return None
        self._look = Look.RUNNING
        return self._claim(self._ask(), self._lanes.borrow())

    def _begin_look(self) -> None:
        self._look = Look.RUNNING
        self._alarm = math.inf
        if self._hint is Hint.TAKEN:
            self._hint = Hint.ELSEWHERE

    def _start_beside(self) -> Operation[bool] | None:
        """Those who joined since the claim began need not wait for its answer while there is plenty.

        The server then has the next claim when it is done with this one. It takes over no event.
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
        """For how long to wait on the hint now; None while no wait should begin. To be followed by `unblocked`.

        Then `behind` may be a call to be sent behind the wait.
        """
        now = self._clock()
        if self._hint is Hint.BLOCKING or self._look is not Look.NONE or self._beside or self._sent:
            return None
        if not self._waiters or now < self._block_not_before:
            return None
        self._hint = Hint.BLOCKING
        longest = min(self._longest_slice, self._waiters.deadline - now)
        seconds = max(0.001, longest * (1 - 0.15 * self._jitter()))
        if self._may_queue and self._lane.number:
            self._behind, self._ticked = self._queue(seconds, now), False
        return seconds

    @property
    def behind(self) -> Call[Reply] | None:
        """What to send behind the wait."""
        return None if self._behind is None else self._behind.batch[0]

    def _queue(self, seconds: float, now: float) -> _Behind:
        """A claim that the server runs up to the given seconds later.

        A host that vanishes in silence takes no more than `MOST_BEHIND` tasks along, until their leases end.
        """
        behind = _Behind(min(MOST_BEHIND, self._waiters.wanted), now)
        willing = max(0.0, self._waiters.deadline - now - seconds)
        behind.claiming = claim(
            self._lanes, behind.want, willing, self._lane, now, self._max_rejected,
            lambda time: self._executed(time, now),
        )  # fmt: skip
        behind.batch = next(behind.claiming)
        return behind

    def _executed(self, time: float, sent: float) -> float:
        """When the server ran a claim behind a wait at the earliest, by this clock: no lease is longer than that."""
        last_sent, last_time = self._last_claim
        return self._note(time, max(sent, min(self._clock(), last_sent + time - last_time)))

    def _note(self, time: float, executed: float) -> float:
        self._last_claim = executed, time
        return executed

    def unblocked(self, hinted: bool, reply: Reply = None) -> None:
        """The wait ended, by a hint or with its time; ``reply`` is that of the claim behind it."""
        self._failures = 0
        behind, self._behind = self._behind, None
        if behind is None or not isinstance(reply, list):  # what failed is sent once more, where errors are dealt with
            self._left = self._left or behind
            self._end_block(hinted=hinted)
            return
        self._end_block(hinted=False, looked=True)
        if not self._ticked:  # else it is not known which of the two came to the timer last
            self._alarm = math.inf
        sent = _Sent(behind.want, self._waiters.now_there())
        try:
            behind.batch = behind.claiming.send([reply])
        except StopIteration as stop:
            sent.answer, sent.over = stop.value, True
            self._asked += sent.want
            self._sent.append(sent)
            self._hand_out_in_order()
        except Exception as error:  # noqa: BLE001 - every waiting caller gets it
            self.abort(error)
        else:
            self._left = behind

    def block_failed(self, error: Exception) -> None:
        """The wait broke. A hint may be lost with it; the claim that follows finds what it told of."""
        self._failures += 1
        self._left, self._behind = self._behind, None
        self._end_block(hinted=True)
        self._block_not_before = self._clock() + BACKOFF.pause(self._failures, self._jitter)
        if self._failures >= MAX_FAILURES or not isinstance(error, TorrelqueConnectionError):
            self.abort(error)

    def _end_block(self, *, hinted: bool, looked: bool = False) -> None:
        self._hint = Hint.TAKEN if hinted or self._hint is Hint.TAKEN else Hint.ELSEWHERE
        if not looked:
            self._look = self._look.and_wanted if self._waiters else self._look.not_wanted

    def timer(self) -> float:
        """When to call `start` and `block` again at the latest, whatever happens."""
        if not self._waiters:
            self.is_active = (
                self._look is not Look.NONE
                or self._hint is not Hint.ELSEWHERE
                or self._left is not None
                or bool(self._sent)
                or self._beside
                or self._alarm < math.inf
            )
            return math.inf
        times = [self._waiters.expiry]
        if not (self._look.is_running or self._beside or self._sent):
            times.append(self._alarm)
            if self._hint is not Hint.BLOCKING:
                times.append(self._block_not_before)
        return min(times)

    def close(self) -> None:
        """The queue object is being closed: fail those who wait; the wait that is cancelled may take a hint along."""
        self.abort(TorrelqueError('the queue was closed while waiting for a task'))
        if self._hint is Hint.BLOCKING:
            self._hint = Hint.TAKEN
            self._left, self._behind = self._behind, None

    # Within ------------------------------------------------------------------

    def _ask(self) -> int:
        """How many to claim of those that are missing. They count as asked for until the claim was answered."""
        want = min(MAX_CLAIM, self._waiters.wanted - self._asked)
        self._asked += want
        return want

    def _claim(self, want: int, elsewhere: Lane | None = None) -> Operation[bool]:
        """The look for those who wait; ``elsewhere``: on this lane, as a claim behind a wait uses ours."""
        if not self._waiters:  # all have left before it began; what it was for, a hint or the timer, is left to others
            self._asked -= want
            return (yield from self._tick())
        try:
            willing = 0.0 if elsewhere else max(0.0, self._waiters.deadline - self._clock())
            return (yield from self._claim_for(want, self._claim_on(elsewhere or self._lane, want, willing)))
        finally:
            self._look = self._look.over
            if elsewhere:
                self._lanes.give_back(elsewhere)

    def _claim_beside(self, want: int) -> Operation[bool]:
        lane = self._lanes.borrow()
        try:
            return (yield from self._claim_for(want, self._claim_on(lane, want, 0.0)))
        finally:
            self._beside = False
            self._lanes.give_back(lane)

    def _claim_left(self, left: _Behind) -> Operation[bool]:
        """Go on with a claim that was sent behind a wait, and may have been done."""
        try:
            return (yield from self._claim_for(left.want, resume(left.claiming, left.batch)))
        finally:
            self._look = self._look.over

    def _settle(self, left: _Behind) -> Operation[bool]:
        """Nobody waits any more: see to it that a claim that was sent behind a wait is not done, or is undone."""
        try:
            yield from resume(left.claiming, left.batch, interrupted=True)
        except (Interrupted, Exception):  # noqa: BLE001 - what could not be settled is settled later
            return False
        finally:
            self._look = self._look.over
        return True

    def _claim_on(self, lane: Lane, want: int, willing: float) -> Operation[Claim]:
        now = self._clock()
        return claim(self._lanes, want, willing, lane, now, self._max_rejected, lambda time: self._note(time, now))

    def _claim_for(self, want: int, claiming: Operation[Claim]) -> Operation[bool]:
        sent = _Sent(want, self._waiters.now_there())
        self._sent.append(sent)
        try:
            sent.answer = yield from claiming
        except Interrupted as interrupted:
            self.abort(interrupted.cause or TorrelqueError('the queue was closed while waiting for a task'))
            return False
        except Exception as error:  # noqa: BLE001 - every waiting caller gets it
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
        if more and self._waiters:
            self._look = self._look.and_wanted

    def _tick(self) -> Operation[bool]:
        """Mind the timer while the lane is in use; if nobody waits any more, leave it and the hint to others."""
        willing = max(0.0, min(FOREVER, self._waiters.deadline - self._clock())) if self._waiters else 0
        words = f'{willing:.6f}' if willing else 0
        try:
            alarm = yield from self._lanes.script('tick', (self._lane.number, words, *cap(self._max_rejected)), as_is)
        except (Interrupted, Exception) as error:  # noqa: BLE001 - the timer expires by itself, the hint costs a slice
            if willing:
                cause = error.cause if isinstance(error, Interrupted) else error
                self.abort(cause if isinstance(cause, Exception) else TorrelqueError('the queue was closed'))
            return False
        else:
            if alarm:
                self._alarm = self._clock() + float(alarm)
            return True
        finally:
            self._look = self._look.over

    def abort(self, error: Exception) -> None:
        """Tell all who wait; what was claimed for one that wants more is its."""
        self._look = self._look.not_wanted
        self._waiters.abort(error)
