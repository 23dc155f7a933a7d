"""Serves waiting consumers with one claim and one blocking wait for all of them.

Theory of operation. All consumers of one queue object that wait for tasks share
a claim and a blocking wait. `Consumers` claims as many tasks as they want and
hands them out, first come, first served. If a claim brings fewer tasks than it
asked for, there are no more. Then `Consumers` waits on the server for the
queue's hint, a key to which every script adds that makes work for a consumer. A
hint, the end of the slice, or another consumer leads to the next claim. So an
idle object sends one wait and one claim per slice, however many consumers it
has, and it never polls.

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
consumer that joins meanwhile claims on another lane, and a ``tick`` handles the
timer. If the wait breaks, or the claim's reply is an error, the same claim is
sent again as the next look: the lane makes that safe, whether or not the server
has run it. If no consumer waits then, it is settled.

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
"""Maximum wait for a hint, in seconds. A task that gave none, such as a 0.9 producer's, waits no longer than this."""

LEAST_BESIDE = 16
"""Minimum number of tasks for a second claim in parallel: a call costs the server as much as about five tasks."""

MOST_BEHIND = 2
"""Maximum number of tasks in a claim behind a wait. A client that vanishes in silence can capture that many."""

MAX_FAILURES = 4
"""Number of waits in a row that may break before waiting callers get an error."""

BACKOFF = Backoff(0.1, 4.0)
"""Pauses after broken waits, well below a slice, so that consumers soon get tasks once waits work again."""


class Look(Enum):
    """The phase of looking for tasks: by a claim for `Consumers`, by a survey of a server for `ShardedConsumers`."""

    NONE = auto()
    """No look is needed."""
    WANTED = auto()
    """It begins with the next poll."""
    RUNNING = auto()
    """It is in flight."""
    RUNNING_WANTED = auto()
    """It is in flight, and another is wanted after it."""

    @property
    def is_wanted(self) -> bool:
        return self is Look.WANTED or self is Look.RUNNING_WANTED

    @property
    def is_running(self) -> bool:
        return self is Look.RUNNING or self is Look.RUNNING_WANTED

    @property
    def and_wanted(self) -> Look:
        """The next phase when a look is wanted."""
        return Look.RUNNING_WANTED if self.is_running else Look.WANTED

    @property
    def not_wanted(self) -> Look:
        """The next phase when no look is wanted any more."""
        return Look.RUNNING if self.is_running else Look.NONE

    @property
    def over(self) -> Look:
        """The next phase when the look in flight has ended."""
        return Look.WANTED if self.is_wanted else Look.NONE


class Hint(Enum):
    """Where the hint is, as far as this object knows."""

    ELSEWHERE = auto()
    """On the server, or with another client."""
    BLOCKING = auto()
    """This object waits for it on the server."""
    TAKEN = auto()
    """A wait has removed it, or may have, and there was no look since. It is owed to other clients."""


class _Sent:
    """A claim for ``want`` tasks on behalf of the tickets ``served``; ``over`` once it was answered or failed."""

    __slots__ = ('answer', 'over', 'served', 'want')

    def __init__(self, want: int, served: list[Ticket]) -> None:
        self.want: int = want
        self.served: list[Ticket] = served
        self.answer: Claim | None = None
        self.over: bool = False


class _Behind:
    """A claim for ``want`` tasks behind a wait, or left over from one. ``batch`` is what it sends next."""

    __slots__ = ('batch', 'claiming', 'sent_at', 'want')

    def __init__(self, want: int, sent_at: float) -> None:
        self.want: int = want
        self.sent_at: float = sent_at
        self.claiming: Operation[Claim]
        self.batch: Batch


def _when(sent: _Sent) -> float:
    return math.inf if sent.answer is None else sent.answer.time


class Consumers:
    """Serves waiting consumers, first come, first served.

    It is in two phases at a time. The transitions of `Look`, for claims on its own lane:

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

    (1) If a consumer waits. (2) While claims bring all that they ask for, a claim begins on another lane. (3) The
    tick of an object that parts, if it has an alarm or has taken a hint.

    If a claim is behind the wait, a poll in WANTED claims on another lane, and a poll with an alarm that is due sends
    a ``tick``. A claim that a wait left over continues in the next poll in which Look is not RUNNING.

    The transitions of `Hint`:

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

    (4) If a consumer waits, no claim is in flight on another lane, and the pause after a broken wait is over.

    Args:
        lanes: The lanes.
        clock: Returns the time in seconds, and never goes back.
        jitter: Returns random numbers from 0 to 1.
        give_back: Called with claimed tasks that no consumer wants any more.
        block_limit: The longest wait that the transport allows, in seconds.
        max_rejected: Maximum number of dead letters to keep; None keeps all.
        in_order: Whether the server receives calls in the order in which they are sent. If not, a claim could
            overtake another, so only one is in flight at a time.
        behind: Whether the driver can send a claim behind a wait.
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
        self.may_queue: bool = behind
        """Whether the next wait may have a claim behind it."""
        self._behind: _Behind | None = None  # the claim behind the wait that is on the server
        self._left: _Behind | None = None  # one that a wait left over: the next look continues it
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
        self._sent: deque[_Sent] = deque()  # claims whose tasks are not handed out yet, in the order of sending
        self._beside = False  # a second claim is in flight, on another lane
        self._plenty = False  # the last answered claim brought all that it asked for
        self._alarm = math.inf  # when the event is due that this client handles
        self._failures = 0
        self._block_not_before = -math.inf
        self.is_active: bool = False
        """Whether there is anything to start, to wait for or to time. If not, nothing can happen before a join."""

    # Callers -----------------------------------------------------------------

    def join(self, ticket: Ticket, want: int, deadline: float) -> None:
        """Add a consumer that waits for up to ``want`` tasks until ``deadline``, which may be infinite."""
        self.is_active = True
        self._waiters.join(ticket, want, deadline)
        self._look = self._look.and_wanted

    def leave(self, ticket: Ticket) -> None:
        """Remove a consumer. Tasks that were claimed for it are given back."""
        self._waiters.leave(ticket)

    @property
    def is_abandoned(self) -> bool:
        """Whether a claim may bring tasks for consumers that have left."""
        return not self._waiters and (self._behind is not None or self._left is not None or bool(self._sent))

    # Driver ------------------------------------------------------------------

    def start(self) -> Operation[bool] | None:
        """Return what to run now; None for nothing. The operation returns whether the server answered."""
        now = self._clock()
        self._waiters.time_out(now)
        if self._look.is_running:
            return self._start_beside()
        if self._sent and self._sent[-1].over:  # hand out an early answer before the next claim begins
            return None
        if self._left is not None:
            return self._go_on()
        if not self._waiters:
            return self._part()
        if self._look is Look.WANTED or self._alarm <= now:
            return self._claim_elsewhere(now) if self._behind is not None else self._claim_here()
        return None

    def _part(self) -> Operation[bool] | None:
        """Leave the timer and the hint to others, because no consumer waits any more."""
        if self._alarm == math.inf and self._hint is not Hint.TAKEN:
            return None
        self._begin_look()
        return self._tick()

    def _go_on(self) -> Operation[bool]:
        """Continue the claim that a wait left over."""
        left, self._left = self._left, None
        assert left is not None  # noqa: S101 - the caller has checked
        if not self._waiters:  # a hint that was taken stays taken, so a tick follows
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
        """Claim on another lane, because the claim behind the wait uses ours and its timer goes on."""
        if self._alarm <= now:  # the tick returns due tasks, and adds a hint, which ends the wait
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
        """Begin a second claim for consumers that joined since the first began, while there are plenty of tasks.

        So the server has its next claim when it finishes the first. This claim takes no timer.
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
        """Return for how long to wait for a hint now, in seconds; None if no wait should begin.

        Send the call `behind`, if there is one, behind the wait. Then call `unblocked` or `block_failed`.
        """
        now = self._clock()
        if self._hint is Hint.BLOCKING or self._look is not Look.NONE or self._beside or self._sent:
            return None
        if not self._waiters or now < self._block_not_before:
            return None
        self._hint = Hint.BLOCKING
        longest = min(self._longest_slice, self._waiters.deadline - now)
        seconds = max(0.001, longest * (1 - 0.15 * self._jitter()))
        if self.may_queue and self._lane.number:
            self._behind, self._ticked = self._queue(seconds, now), False
        return seconds

    @property
    def behind(self) -> Call[Reply] | None:
        """The call to send behind the wait; None for none."""
        return None if self._behind is None else self._behind.batch[0]

    def _queue(self, seconds: float, now: float) -> _Behind:
        """Make a claim that the server will run up to this number of seconds later.

        If this host vanishes silently, it captures at most `MOST_BEHIND` tasks, until their leases end.
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
        """Return the earliest time, on this clock, at which the server may have run a claim behind a wait."""
        last_sent, last_time = self._last_claim
        return self._note(time, max(sent, min(self._clock(), last_sent + time - last_time)))

    def _note(self, time: float, executed: float) -> float:
        self._last_claim = executed, time
        return executed

    def unblocked(self, hinted: bool, reply: Reply = None) -> None:
        """Process the end of the wait, by a hint or its time. ``reply`` is the reply to the claim behind it."""
        self._failures = 0
        behind, self._behind = self._behind, None
        if behind is None or not isinstance(reply, list):  # a failed claim is sent again, which handles its errors
            self._left = self._left or behind
            self._end_block(hinted=hinted)
            return
        self._end_block(hinted=False, looked=True)
        if not self._ticked:  # otherwise the claim or the tick may have had the timer last
            self._alarm = math.inf
        sent = _Sent(behind.want, self._waiters.now_there())
        try:
            behind.batch = behind.claiming.send([reply])
        except StopIteration as stop:
            sent.answer, sent.over = stop.value, True
            self._asked += sent.want
            self._sent.append(sent)
            self._hand_out_in_order()
        except Exception as error:  # noqa: BLE001 - raised to every waiting caller
            self.abort(error)
        else:
            self._left = behind

    def block_failed(self, error: Exception) -> None:
        """Process a wait that broke. It may have taken a hint; the next claim finds the tasks behind it."""
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
        """Return when to call `start` and `block` again at the latest."""
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
        """Fail all consumers, because the queue is being closed. The wait, which is cancelled, may take a hint."""
        self.abort(TorrelqueError('the queue was closed while waiting for a task'))
        if self._hint is Hint.BLOCKING:
            self._hint = Hint.TAKEN
            self._left, self._behind = self._behind, None

    # Within ------------------------------------------------------------------

    def _ask(self) -> int:
        """Return how many tasks to claim. They count as asked for until the claim was answered."""
        want = min(MAX_CLAIM, self._waiters.wanted - self._asked)
        self._asked += want
        return want

    def _claim(self, want: int, elsewhere: Lane | None = None) -> Operation[bool]:
        """Claim for the consumers that wait; on the lane ``elsewhere`` if a claim behind a wait uses ours."""
        if not self._waiters:  # all have left before it began, so leave the hint and the timer to others
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
        """Continue a claim that was sent behind a wait, and may have run."""
        try:
            return (yield from self._claim_for(left.want, resume(left.claiming, left.batch)))
        finally:
            self._look = self._look.over

    def _settle(self, left: _Behind) -> Operation[bool]:
        """Settle a claim that was sent behind a wait: it is undone, or never runs. No consumer waits any more."""
        try:
            yield from resume(left.claiming, left.batch, interrupted=True)
        except (Interrupted, Exception):  # noqa: BLE001 - if that fails, it is settled later
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
        except Exception as error:  # noqa: BLE001 - raised to every waiting caller
            self.abort(error)
            return False
        finally:
            sent.over = True
            self._hand_out_in_order()
        return True

    def _hand_out_in_order(self) -> None:
        """Hand out tasks in the order in which the server ran the claims, because Trio resumes tasks in any order."""
        over: list[_Sent] = []
        while self._sent and self._sent[0].over:
            over.append(self._sent.popleft())
        # A claim that had to make its lane was sent later than it seems.
        for sent in sorted(over, key=_when):
            self._asked -= sent.want
            if sent.answer is not None:
                self._hand_out(sent.served, sent.answer, sent.want)

    def _hand_out(self, served: list[Ticket], answer: Claim, want: int) -> None:
        if answer.alarm is not None:
            self._set_alarm(answer.alarm)
        self._plenty = len(answer.tasks) == want
        more = answer.again or self._plenty
        self._waiters.hand_out(served, answer.tasks, more=more or self._asked > 0)
        if more and self._waiters:
            self._look = self._look.and_wanted

    def _set_alarm(self, seconds: float) -> None:
        """Set the alarm, unless an earlier one is set: a tick and a claim may be answered in another order than run."""
        self._alarm = min(self._alarm, self._clock() + seconds)

    def _tick(self) -> Operation[bool]:
        """Handle the timer while the lane is in use. If no consumer waits any more, leave it and the hint to others."""
        willing = max(0.0, min(FOREVER, self._waiters.deadline - self._clock())) if self._waiters else 0
        words = f'{willing:.6f}' if willing else 0
        try:
            alarm = yield from self._lanes.script('tick', (self._lane.number, words, *cap(self._max_rejected)), as_is)
        except (Interrupted, Exception) as error:  # noqa: BLE001 - the timer expires, and the hint costs others a slice
            if willing:
                cause = error.cause if isinstance(error, Interrupted) else error
                self.abort(cause if isinstance(cause, Exception) else TorrelqueError('the queue was closed'))
            return False
        else:
            if alarm:
                self._set_alarm(float(alarm))
            return True
        finally:
            self._look = self._look.over

    def abort(self, error: Exception) -> None:
        """Fail all consumers, except those that have got some of their tasks: these get what they have."""
        self._look = self._look.not_wanted
        self._waiters.abort(error)
