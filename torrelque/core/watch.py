"""What a watcher reports: the states it yields, from what it read and what was published."""

from __future__ import annotations

from typing import NamedTuple

from torrelque.core.models import TorrelqueTaskState, TorrelqueTaskStatus

__all__ = ('Watch',)


class _Published(NamedTuple):
    """A published transition. ``status`` is None if the task was cancelled."""

    revision: int
    status: TorrelqueTaskStatus | None

    @property
    def is_end(self) -> bool:
        return self.status is None or self.status.isfinal()


class Watch:
    """One watched task.

    Each transition is published as a revision and a status, and may be over
    when the state is read, or its state gone. So a state is made up for every
    published transition that the reading skipped, and for the end of a task that
    is gone: the last one read, with the published status. ``ended`` is set after
    the last state; ``final`` is then the final status, None if it is unknown, and
    ``cancelled`` whether the task was taken out of the queue.

    A message is believed only once the state has been read: channels are shared
    by all databases of a server, so it may be about a task of the same id in
    another database.
    """

    def __init__(self) -> None:
        self.last: TorrelqueTaskState | None = None
        self.ended: bool = False
        self.final: TorrelqueTaskStatus | None = None
        self.cancelled: bool = False
        self._published: list[_Published] = []
        self._ahead: list[_Published] = []
        self._missed = False

    @property
    def end_published(self) -> bool:
        """Whether a message told how the task ended."""
        heard = self._published if self._missed else self._chain()
        return any(each.is_end for each in heard)

    @property
    def behind(self) -> bool:
        """Whether a message told of a transition that was not read yet."""
        return bool(self._published)

    def lacks(self, state: TorrelqueTaskState | None) -> bool:
        """Whether the message of a transition up to the state as read now has yet to come."""
        if state is None:
            return not self.end_published
        if self.last is None:
            return False
        heard = {each.revision for each in self._published if self.last.revision < each.revision < state.revision}
        return len(heard) < state.revision - self.last.revision - 1

    def miss(self) -> None:
        """Messages since the last reading may have been missed."""
        self._missed = True

    def publish(self, data: bytes) -> None:
        """Take in a message of the task's channel; messages that are not the library's are ignored."""
        revision, _, status = data.partition(b' ')
        try:
            transition = None if status == b'cancelled' else TorrelqueTaskStatus(int(status))
            self._published.append(_Published(int(revision), transition))
        except ValueError:
            return

    def read(self, state: TorrelqueTaskState | None) -> list[TorrelqueTaskState]:
        """Take in the state as read now, None if there is none any more. Returns what to yield."""
        last = self.last
        believed = self._believed(state)
        states, end = list[TorrelqueTaskState](), 0
        if last is not None:
            for revision, status in believed:
                if revision <= last.revision:
                    continue
                if status is None:
                    self.cancelled = state is None
                elif status.isfinal():
                    self.final, end = status, revision
                else:
                    self.final = None  # a dead letter was redriven
                    last = last._replace(revision=revision, status=status)
                    states.append(last)
        if state is None:
            self.ended = True
            last = self._end(last, end)
            if self.final is not None and last is not None:
                states.append(last)
        else:
            if last is None or _differ(last, state):
                states.append(state)
            last = state
            self.final = state.status if state.status.isfinal() else None
            self.ended = self.final is not None
            self._missed = False
        self.last = last
        return states

    def _end(self, last: TorrelqueTaskState | None, revision: int) -> TorrelqueTaskState | None:
        """The last state of a task that is gone; the final one if it is known."""
        if last is None:
            return None
        unheard = not (self.final or self.cancelled or self._missed)
        if unheard and last.status is TorrelqueTaskStatus.WORKING:
            # A 0.9 consumer publishes nothing; nothing else ends a task that is being worked on.
            self.final, revision = TorrelqueTaskStatus.COMPLETED, last.revision + 1
        return last if self.final is None else last._replace(status=self.final, revision=revision)

    def _believed(self, state: TorrelqueTaskState | None) -> list[_Published]:
        """The messages that the state bears out; those that may be ahead of it are kept for the next reading."""
        if state is None:
            chain = self._chain()
            if self._missed or not any(each.is_end for each in chain):
                return self._published
            return chain
        # A message may be ahead of a reading that was under way, but not of the next one: then it is about another
        # task of the same id, an earlier one or one in another database.
        ahead = [each for each in self._published if each.revision > state.revision]
        believed = [each for each in self._published if each.revision < state.revision]
        self._published = [each for each in ahead if each not in self._ahead]
        self._ahead = list(self._published)
        return believed

    def _chain(self) -> list[_Published]:
        """The messages that follow on the last state without a gap, up to the task's end."""
        chain: list[_Published] = []
        revision = 0 if self.last is None else self.last.revision
        for each in self._published:
            if each.revision == revision + 1:
                revision += 1
                chain.append(each)
                if each.is_end and each.status is not TorrelqueTaskStatus.REJECTED:
                    break
        return chain


def _differ(one: TorrelqueTaskState, other: TorrelqueTaskState) -> bool:
    """Whether there was a transition; 0.9 makes some without increasing the revision."""
    return (one.revision, one.status, one.dequeue_count, one.requeue_count) != (
        other.revision, other.status, other.dequeue_count, other.requeue_count
    )  # fmt: skip
