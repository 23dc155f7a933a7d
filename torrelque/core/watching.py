"""What a watcher is told: the states it yields, of what was read and what was published."""

from __future__ import annotations

from torrelque.core.models import TorrelqueTaskState, TorrelqueTaskStatus

__all__ = ('Watch',)


class Watch:
    """One watched task.

    Each transition is published as a revision and a status, and may be over
    when the state is read, or its state gone. So a state is made up for every
    published transition that the reading skipped: the last one read, with the
    published status. ``ended`` is set after the last state; ``final`` is then
    the final status, None if nobody told it, and ``cancelled`` whether the task
    was taken out of the queue.
    """

    def __init__(self) -> None:
        self.last: TorrelqueTaskState | None = None
        self.ended: bool = False
        self.final: TorrelqueTaskStatus | None = None
        self.cancelled: bool = False
        self._published: list[tuple[int, TorrelqueTaskStatus]] = []
        self._ahead: list[tuple[int, TorrelqueTaskStatus]] = []

    @property
    def end_told(self) -> bool:
        """Whether a message told how the task ended."""
        return self.cancelled or any(status.isfinal() for _, status in self._published)

    @property
    def behind(self) -> bool:
        """Whether a message told of a transition that was not read yet."""
        return bool(self._published)

    def lacks(self, state: TorrelqueTaskState | None) -> bool:
        """Whether the message of a transition up to the state as read now has yet to come."""
        if state is None:
            return not self.end_told
        if self.last is None:
            return False
        told = {revision for revision, _ in self._published if self.last.revision < revision < state.revision}
        return len(told) < state.revision - self.last.revision - 1

    def publish(self, data: bytes) -> None:
        """Take in a message of the task's channel; what is none of the library's is ignored."""
        revision, _, status = data.partition(b' ')
        if status == b'cancelled':
            self.cancelled = True
            return
        try:
            self._published.append((int(revision), TorrelqueTaskStatus(int(status))))
        except ValueError:
            return

    def read(self, state: TorrelqueTaskState | None) -> list[TorrelqueTaskState]:
        """Take in the state as read now, None where there is none any more. Returns what to yield."""
        last = self.last
        published = self._published
        # A message may run ahead of a reading that was under way, but not of the next one: what does then is of a
        # task that had the same id before.
        ahead = [] if state is None else [told for told in published if told[0] > state.revision]
        self._published = [told for told in ahead if told not in self._ahead]
        self._ahead = list(self._published)
        states = []
        if last is not None:
            for revision, status in published:
                if revision > last.revision and (state is None or revision < state.revision):
                    if status.isfinal():
                        self.final = status
                    else:
                        last = last._replace(revision=revision, status=status)
                        states.append(last)
        if state is None:
            self.ended = True
        else:
            if last is None or _differ(last, state):
                states.append(state)
            last = state
            self.final = state.status if state.status.isfinal() else None
            self.ended = self.final is not None
        self.last = last
        return states


def _differ(one: TorrelqueTaskState, other: TorrelqueTaskState) -> bool:
    """Whether there was a transition; 0.9 makes some without counting the revision up."""
    return (one.revision, one.status, one.dequeue_count, one.requeue_count) != (
        other.revision, other.status, other.dequeue_count, other.requeue_count
    )  # fmt: skip
