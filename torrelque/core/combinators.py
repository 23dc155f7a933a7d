"""Several operations run as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from torrelque.core.protocol import Batch, Interrupted, Operation

__all__ = ('together',)

T = TypeVar('T')


def together(operations: Iterable[Operation[T]]) -> Operation[list[T | Exception]]:
    """Run operations in lockstep rounds, one merged batch a round.

    Returns their results in order; the error of one that failed stands in its
    place, so that it cannot spoil the others. An interruption reaches each of
    those that still run; if it ends any of them, it is raised once all ended.
    """
    results: dict[int, T | Exception] = {}
    interrupted: list[Interrupted] = []
    running: list[tuple[int, Operation[T], Batch]] = []

    def step(number: int, operation: Operation[T], replies: Any) -> None:  # noqa: ANN401 - replies, None or Interrupted
        try:
            if isinstance(replies, Interrupted):
                batch = operation.throw(Interrupted(replies.cause))
            else:
                batch = operation.send(replies)
        except StopIteration as stop:
            results[number] = stop.value
        except Interrupted as error:
            interrupted.append(error)
        except Exception as error:  # noqa: BLE001 - it is the operation's result
            results[number] = error
        else:
            running.append((number, operation, batch))

    for number, operation in enumerate(operations):
        step(number, operation, None)
    while running:
        round_, running = running, []
        try:
            replies = yield [call for _, _, batch in round_ for call in batch]
        except Interrupted as error:
            for number, operation, _ in round_:
                step(number, operation, error)
        else:
            at = 0
            for number, operation, batch in round_:
                step(number, operation, replies[at : at + len(batch)])
                at += len(batch)
    if interrupted:
        raise interrupted[0]
    return [results[number] for number in sorted(results)]
