"""An operation runs within its hook, with its own signature."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from torrelque import Torrelque
from torrelque.otel import InstrumentedTorrelque
from torrelque.otel.hooks import Invocation, hooked

HOOKED = (
    'dequeue', 'dequeue_many', 'dequeue_nowait', 'enqueue', 'enqueue_many', 'giveback', 'reject', 'release',
    'release_many', 'requeue', 'requeue_many',
)  # fmt: skip


class Adder:
    async def add(self, number: int, *, to: int = 1) -> int:
        """Add."""
        if number < 0:
            raise ValueError(number)
        return number + to


@pytest.mark.anyio
async def test_the_hook_sees_arguments_with_defaults_and_the_answer_and_may_replace_arguments() -> None:
    calls: list[Invocation] = []

    @contextmanager
    def hook(adder: Adder, call: Invocation) -> Iterator[None]:
        assert isinstance(adder, Adder)
        assert (call.operation, call.arguments['to']) == ('add', 1)
        call.arguments['to'] = 10
        yield
        calls.append(call)

    add = hooked(Adder.add, hook)

    assert await add(Adder(), 5) == 15
    assert calls[0].answer == 15
    assert inspect.signature(add) == inspect.signature(Adder.add)
    assert add.__doc__ == 'Add.'
    with pytest.raises(ValueError, match='-1'):
        await add(Adder(), number=-1)
    with pytest.raises(TypeError, match='number'):
        await add(Adder(), numbers=1)
    assert len(calls) == 1


def test_operations_are_hooked_and_keep_their_signatures_while_a_plain_queue_has_no_hooks() -> None:
    replaced = sorted(name for name in HOOKED if getattr(InstrumentedTorrelque, name) is not getattr(Torrelque, name))

    assert replaced == list(HOOKED)
    for name in HOOKED:
        assert inspect.signature(getattr(InstrumentedTorrelque, name)) == inspect.signature(getattr(Torrelque, name))
        assert not hasattr(getattr(Torrelque, name), '__wrapped__')
