"""Running operations by hand: no event loop, no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pytest

from torrelque.core import scripts
from torrelque.core.keys import Keys
from torrelque.core.lanes import Lanes
from torrelque.core.protocol import Batch, Call, Operation, Reply, Script

T = TypeVar('T')

SCRIPTS = scripts.load()
KEYS = Keys.of_queue('q')


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def lanes(nonce: str = 'nonce') -> Lanes:
    return Lanes(SCRIPTS, KEYS, nonce)


def end(operation: Operation[T], replies: Sequence[Reply]) -> T:
    """Send the last replies; returns the result."""
    with pytest.raises(StopIteration) as stop:
        operation.send(replies)
    result: T = stop.value.value
    return result


def end_by(operation: Operation[T], error: BaseException) -> T:
    """Throw into the operation, which is to end by returning; returns the result."""
    with pytest.raises(StopIteration) as stop:
        operation.throw(error)
    result: T = stop.value.value
    return result


def name_of(call: Call[Any]) -> str:
    return call.command.name if isinstance(call.command, Script) else call.command


def names(batch: Batch) -> list[str]:
    return [name_of(call) for call in batch]


def only(batch: Batch) -> tuple[str, tuple[Any, ...]]:
    """Name and arguments of a batch's only call."""
    (call,) = batch
    return name_of(call), call.args


def claimed(*ids: str, alarm: bytes = b'', again: int = 0, time: float = 1000.0) -> list[Reply]:
    """The claim script's reply, each task delivered for the first time, with a lease of 300 s."""
    reply: list[Reply] = [b'OK', alarm, again, b'%.6f' % time]
    for task_id in ids:
        reply += [task_id.encode(), b'payload', b'%.6f' % (time + 300), b'']
    return reply
