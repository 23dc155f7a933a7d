"""Decides which states a watcher yields, from the states that it reads and the messages that are published."""

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

    Each transition is published as a revision and a status. By the time the state
    is read, further transitions may have happened, or the state may be gone. So
    for each published transition that a read has skipped, and for the end of a
    task that is gone, this yields the last state read with the published status.

    A message counts only once the state has been read. All databases of a server
    share its channels, so a message may be about a task of the same id in another
    database.

    Attributes:
        last: The last state; None before the first read.
        ended: Whether the last state has been yielded.
        final: The final status once ``ended``; None if it is unknown.
        cancelled: Whether the task was cancelled.
        unpublished: Whether the last read showed a transition that is not published, so 0.9 made it.
    """

    def __init__(self) -> None:
        self.last: TorrelqueTaskState | None = None
        self.ended: bool = False
        self.final: TorrelqueTaskStatus | None = None
        self.cancelled: bool = False
        self.unpublished: bool = False
        self._published: list[_Published] = []
        self._ahead: list[_Published] = []
        self._missed = False

    @property
    def end_published(self) -> bool:
        """Whether a message says how the task ended."""
        heard = self._published if self._missed else self._chain()
        return any(each.is_end for each in heard)

    @property
    def behind(self) -> bool:
        """Whether there is a message about a transition that was not read yet."""
        return bool(self._published)

    def lacks(self, state: TorrelqueTaskState | None) -> bool:
        """Whether messages about transitions up to this state, as read now, have not arrived yet."""
        if state is None:
            return not self.end_published
        if self.last is None:
            return False
        heard = {each.revision for each in self._published if self.last.revision < each.revision < state.revision}
        return len(heard) < state.revision - self.last.revision - 1

    def miss(self) -> None:
        """Record that messages since the last read may have been missed."""
        self._missed = True

    def publish(self, data: bytes) -> None:
        """Process a message from the task's channel. Messages in another format are ignored."""
        revision, _, status = data.partition(b' ')
        try:
            transition = None if status == b'cancelled' else TorrelqueTaskStatus(int(status))
            self._published.append(_Published(int(revision), transition))
        except ValueError:
            return

    def read(self, state: TorrelqueTaskState | None) -> list[TorrelqueTaskState]:
        """Process a state.

        Args:
            state: The state as read now; None if there is none any more.

        Returns:
            The states to yield.
        """
        last = self.last
        self.unpublished = last is not None and self._is_unpublished(last, state)
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
                    last = last._replace(revision=revision, status=status, progress=None)
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

    def _is_unpublished(self, last: TorrelqueTaskState, state: TorrelqueTaskState | None) -> bool:
        """Whether 0.9 made the transition: it neither increases the revision nor publishes the end of a task."""
        if state is None:
            return not (self._missed or self.end_published)
        return state.revision == last.revision and _differ(last, state._replace(progress=last.progress))

    def _end(self, last: TorrelqueTaskState | None, revision: int) -> TorrelqueTaskState | None:
        """Return the last state of a task that is gone; the final one if it is known."""
        if last is None:
            return None
        unheard = not (self.final or self.cancelled or self._missed)
        if unheard and last.status is TorrelqueTaskStatus.WORKING:
            # The end was not published, so a 0.9 consumer has completed the task.
            self.final, revision = TorrelqueTaskStatus.COMPLETED, last.revision + 1
        return last if self.final is None else last._replace(status=self.final, revision=revision, progress=None)

    def _believed(self, state: TorrelqueTaskState | None) -> list[_Published]:
        """Return the messages that the state confirms. Those that may be ahead of it are kept for the next read."""
        if state is None:
            chain = self._chain()
            if self._missed or not any(each.is_end for each in chain):
                return self._published
            return chain
        # A message may be ahead of a read that was under way, but not of the next one: then it is about another task
        # of the same id, an earlier one or one in another database.
        ahead = [each for each in self._published if each.revision > state.revision]
        believed = [each for each in self._published if each.revision < state.revision]
        self._published = [each for each in ahead if each not in self._ahead]
        self._ahead = list(self._published)
        return believed

    def _chain(self) -> list[_Published]:
        """Return the messages that follow the last state without a gap, up to the task's end."""
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
    """Whether there was a transition, or progress. 0.9 makes transitions without increasing the revision."""
    return (one.revision, one.status, one.dequeue_count, one.requeue_count, one.progress) != (
        other.revision, other.status, other.dequeue_count, other.requeue_count, other.progress
    )  # fmt: skip
