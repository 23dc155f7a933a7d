"""Makes one claim."""

from __future__ import annotations

from collections.abc import Callable

from torrelque.core.commands import ClaimedTask, cap
from torrelque.core.lanes import Lane, Lanes
from torrelque.core.models import Receipt
from torrelque.core.protocol import Operation, Reply
from torrelque.errors import TorrelqueTooLargeError

__all__ = ('FOREVER', 'Claim', 'claim')

FOREVER = 86400.0
"""Stands for a wait without limit, in seconds."""


class Claim:
    """The answer to a claim.

    Attributes:
        tasks: The claimed tasks.
        alarm: Seconds until the event that this client now handles; None for none.
        again: Whether there may be more tasks, because the claim reached a limit.
        time: When the server ran the claim, on the server's clock.
    """

    __slots__ = ('again', 'alarm', 'tasks', 'time')

    def __init__(self, tasks: list[ClaimedTask], alarm: float | None, again: bool, time: float) -> None:
        self.tasks: list[ClaimedTask] = tasks
        self.alarm: float | None = alarm
        self.again: bool = again
        self.time: float = time


def claim(
    lanes: Lanes,
    want: int,
    willing: float,
    lane: Lane,
    sent: float,
    max_rejected: int | None = None,
    executed: Callable[[float], float] | None = None,
) -> Operation[Claim]:
    """Claim tasks.

    If the server refuses the reply because it is too large, the claim is undone, and this and later claims ask for
    fewer tasks.

    Args:
        lanes: The lanes.
        want: Maximum number of tasks.
        willing: How long the consumers will go on waiting, in seconds.
        lane: The lane to use.
        sent: The time now.
        max_rejected: Maximum number of dead letters to keep; None keeps all.
        executed: Returns the earliest time, on this client's clock, at which the server may have run the claim,
            given the server's time. None takes ``sent``.

    Returns:
        The answer.
    """

    def parse(reply: Reply) -> Claim:
        alarm, again, time, *values = reply
        if isinstance(again, list):  # with schedules that need more times
            again, *needy = again
            lanes.needy.update(dict.fromkeys(needy))
        token = f'{lane.number}:{lane.nonce}:{lane.sequence}'
        offset = (executed(float(time)) if executed else sent) - float(time)
        tasks = []
        for task_id, payload, deadline, more in zip(*[iter(values)] * 4, strict=True):
            lease, _, line = deadline.partition(b' ')  # more follows if the task is in a group
            count, attempt, headers = _parse_more(more) if more else (1, 1, b'')
            receipt, end = Receipt(task_id.decode(), token, count), float(lease)
            group, fence = _parse_line(line) if line else (None, None)
            tasks.append(ClaimedTask(receipt, payload, end, headers, end + offset, attempt, group, fence))
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


def _parse_more(text: bytes) -> tuple[int, int, bytes]:
    """Return a task's count of deliveries, the number of its attempt, and its headers."""
    count, attempt, headers = text.split(b' ', 2)
    return int(count), max(1, int(attempt)), headers


def _parse_line(text: bytes) -> tuple[str, int]:
    """Return the group of a task, and the number of its claim."""
    fence, _, group = text.partition(b' ')
    return group.decode(errors='replace'), int(fence)
