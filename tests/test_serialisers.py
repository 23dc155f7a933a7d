"""The serialisers that come with the library, and what they need."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from torrelque import Torrelque, serialisers
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio


@dataclass
class Meeting:
    title: str
    at: datetime


MEETING = Meeting('lunch', datetime(2031, 5, 6, 7, 8, tzinfo=UTC))


@pytest.mark.parametrize('name', ['msgspec', 'pydantic'])
async def test_a_typed_serialiser(name: str) -> None:
    pytest.importorskip(name)
    serialiser: Any = getattr(serialisers, name)(Meeting)
    client = MemoryTransport()
    async with (
        Torrelque(client, serialiser=serialiser, result_serialiser=serialisers.JSON) as queue,
        Torrelque(client) as other,
    ):
        await queue.enqueue(MEETING)
        bad = await other.enqueue({'title': 5})
        task = await queue.dequeue()
        assert task.data == MEETING
        await queue.release(task, result={'places': 3})
        assert (await queue.get_task_state(task.id)).result == {'places': 3}
        assert await queue.dequeue_nowait() == [], 'what is not of the type is rejected'
        assert 'cannot be deserialised' in ((await queue.wait(bad)).reason or '')


@pytest.mark.parametrize('name', ['msgspec', 'pydantic'])
def test_plain_values_on_the_way(name: str) -> None:
    pytest.importorskip(name)
    serialiser: Any = getattr(serialisers, name)(Meeting)
    plain = serialiser.to_builtins(MEETING)
    assert plain == {'title': 'lunch', 'at': '2031-05-06T07:08:00Z'}
    assert serialiser.from_builtins(plain) == MEETING


def test_pickle() -> None:
    pickle: Any = serialisers.pickle
    value = {1, (2, b'\x00')}
    assert pickle.loads(pickle.dumps(value)) == value


def test_packages_are_imported_when_they_are_used() -> None:
    code = """
import sys
from torrelque import serialisers
print(*{'msgspec', 'pydantic'} & set(sys.modules))
sys.modules['pydantic'] = None
try:
    serialisers.pydantic(int)
except ImportError:
    print('refused')
"""
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ['refused']
