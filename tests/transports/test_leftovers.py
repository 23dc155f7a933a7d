"""The public suite notices what a test leaves behind."""

from __future__ import annotations

import socket
from itertools import chain, repeat

import anyio
import anyio.lowlevel
import pytest

from torrelque.testing.conformance import support
from torrelque.testing.conformance.support import nothing_left_behind

pytestmark = pytest.mark.anyio


async def nobody() -> int:
    await anyio.lowlevel.checkpoint()
    return 0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, 'PATIENCE', 0.2)


async def test_nothing() -> None:
    async with nothing_left_behind(nobody):
        with socket.socket():
            await anyio.lowlevel.checkpoint()


async def test_a_socket() -> None:
    left: list[socket.socket] = []
    with pytest.raises(AssertionError, match='sockets in place of'):
        async with nothing_left_behind(nobody):
            left.append(socket.socket())
    left.pop().close()


async def test_a_task() -> None:
    async with anyio.create_task_group() as tasks:
        with pytest.raises(AssertionError, match='left something behind'):
            async with nothing_left_behind(nobody):
                tasks.start_soon(anyio.sleep_forever)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize('patience', [0.2, 0], ids=['in time', 'cut short'])
async def test_a_blocked_client(patience: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, 'PATIENCE', patience)
    counts = chain([0], repeat(1))

    async def count() -> int:
        await anyio.lowlevel.checkpoint()
        return next(counts)

    with pytest.raises(AssertionError, match='1 blocked clients in place of 0'):
        async with nothing_left_behind(count):
            pass
