"""One claim: how it is asked for, and what its answer means."""

from __future__ import annotations

from collections.abc import Callable

from torrelque.core.commands import ClaimedTask, cap
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.models import Receipt
from torrelque.core.protocol import Operation, Reply
from torrelque.errors import TorrelqueTooLargeError

__all__ = ('FOREVER', 'Claim', 'claim')

FOREVER = 86400.0
"""Seconds that stand for a wait without limit."""


class Claim:
    """What a claim answered."""

    __slots__ = ('again', 'alarm', 'tasks', 'time')

    def __init__(self, tasks: list[ClaimedTask], alarm: float | None, again: bool, time: float) -> None:
        self.tasks: list[ClaimedTask] = tasks
        self.alarm: float | None = alarm
        self.again: bool = again
        self.time: float = time  # on the server's clock


def claim(
    lanes: Lanes,
    want: int,
    willing: float,
    lane: Lane,
    sent: float,
    max_rejected: int | None = None,
    executed: Callable[[float], float] | None = None,
) -> Operation[Claim]:
    """Claim up to ``want`` tasks for somebody who would wait ``willing`` seconds more.

    ``sent``: the time now; ``max_rejected``: the most dead letters to be kept; ``executed``: the earliest time here at
    which the server may have run a claim that it answered at a time there, if not that at which it was sent.
    If the answer is too large for the server, what was claimed goes back, and
    fewer tasks are asked for, then and later.
    """

    def parse(reply: Reply) -> Claim:
        alarm, again, time, *values = reply
        token = f'{lane.number}:{lane.nonce}:{lane.sequence}'
        offset = (executed(float(time)) if executed else sent) - float(time)
        tasks = []
        for task_id, payload, deadline, more in zip(*[iter(values)] * 4, strict=True):
            count, attempt, headers = more.split(b' ', 2) if more else (1, 1, b'')
            receipt, end = Receipt(task_id.decode(), token, int(count)), float(deadline)
            tasks.append(ClaimedTask(receipt, payload, end, headers, end + offset, max(1, int(attempt))))
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
