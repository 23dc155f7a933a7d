"""Runs several operations as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from torrelque.core.protocol import Batch, Interrupted, Operation
from torrelque.errors import renew

__all__ = ('together',)

T = TypeVar('T')


def together(operations: Iterable[Operation[T]]) -> Operation[list[T | Exception]]:
    """Run operations in lockstep, with one merged batch per round.

    An interruption, or an error from the driver, is thrown into each operation that still runs.

    Returns:
        The results in order. If an operation failed, its error takes the place of its result, so it does not
        affect the others.

    Raises:
        Interrupted: An interruption ended one of them. It is raised once all have ended.
    """
    rows = [_Row(operation) for operation in operations]
    for row in rows:
        row.send(None)
    while running := [row for row in rows if row.batch is not None]:
        try:
            replies = yield [call for row in running for call in row.batch or ()]
        except (Interrupted, Exception) as error:  # noqa: BLE001 - thrown into each operation
            for row in running:
                row.throw(Interrupted(error.cause) if isinstance(error, Interrupted) else renew(error))
        else:
            at = 0
            for row in running:
                row.send(replies[at : (at := at + len(row.batch or ()))])
    for row in rows:
        if row.interrupted is not None:
            raise row.interrupted
    return [row.result for row in rows]


class _Row(Generic[T]):
    """One operation. ``batch`` is the batch whose replies it waits for; None once it has ended."""

    __slots__ = ('batch', 'interrupted', 'operation', 'result')

    def __init__(self, operation: Operation[T]) -> None:
        self.operation = operation
        self.batch: Batch | None = None
        self.result: Any = None
        self.interrupted: Interrupted | None = None

    def send(self, replies: Any) -> None:  # noqa: ANN401 - replies, or None to begin
        self._step(self.operation.send, replies)

    def throw(self, error: BaseException) -> None:
        self._step(self.operation.throw, error)

    def _step(self, resume: Any, value: Any) -> None:  # noqa: ANN401
        self.batch = None
        try:
            self.batch = resume(value)
        except StopIteration as stop:
            self.result = stop.value
        except Interrupted as error:
            self.interrupted = error
        except Exception as error:  # noqa: BLE001 - takes the place of the result
            self.result = error
