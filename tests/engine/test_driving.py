"""Driving one operation over a transport: what is thrown into it, and what the caller gets."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from torrelque import TorrelqueConnectionError, TorrelqueError, TorrelqueUsageError
from torrelque.core.protocol import Batch, Call, Interrupted, Operation, Reply
from torrelque.engine.driving import drive
from torrelque.testing import MemoryTransport

pytestmark = pytest.mark.anyio

PING = Call[Reply]('PING')


class BrokenTransport(MemoryTransport):
    """Fails each batch with an error, and counts the attempts that are made once."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.attempts = 0

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        raise self.error

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        self.attempts += 1
        return [b'OK' for _ in batch]


class Operations:
    """Makes an operation that notes what is thrown into it, and cleans up."""

    def __init__(self, *, swallow: bool = False) -> None:
        self.thrown: BaseException | None = None
        self.replies: Sequence[Reply] = ()
        self._swallow = swallow

    def make(self) -> Operation[str]:
        try:
            yield [PING]
        except BaseException as error:
            self.thrown = error
            self.replies = yield [PING, PING]
            if not self._swallow:
                raise
        return 'done'


async def test_what_an_operation_returns() -> None:
    def work() -> Operation[int]:
        yield [PING]
        return 42

    assert await drive(MemoryTransport(), work()) == 42


async def test_a_lost_connection_interrupts_the_operation_which_cleans_up_in_one_attempt() -> None:
    transport, operations = BrokenTransport(TorrelqueConnectionError('gone')), Operations()
    with pytest.raises(TorrelqueConnectionError, match='gone'):
        await drive(transport, operations.make())
    assert isinstance(operations.thrown, Interrupted)
    assert operations.thrown.cause is transport.error
    assert (operations.replies, transport.attempts) == ([b'OK', b'OK'], 1)


async def test_an_operation_may_recover() -> None:
    transport = BrokenTransport(ValueError('odd'))
    assert await drive(transport, Operations(swallow=True).make()) == 'done'


async def test_an_error_before_anything_is_sent_is_no_interruption() -> None:
    operations = Operations()
    transport = BrokenTransport(TorrelqueUsageError('not here'))
    with pytest.raises(TorrelqueUsageError, match='not here'):
        await drive(transport, operations.make())
    assert operations.thrown is transport.error


async def test_an_interruption_without_a_cause_is_an_error() -> None:
    def work() -> Operation[None]:
        yield [PING]
        raise Interrupted

    with pytest.raises(TorrelqueError, match='interrupted'):
        await drive(MemoryTransport(), work())


class StuckTransport(MemoryTransport):
    """Never answers the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = anyio.Event()

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if not self.reached.is_set():
            self.reached.set()
            await anyio.sleep_forever()
        return [b'OK' for _ in batch]


async def test_a_cancelled_operation_cleans_up() -> None:
    transport, operations = StuckTransport(), Operations()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drive, transport, operations.make())
            await transport.reached.wait()
            tasks.cancel_scope.cancel()
    assert isinstance(operations.thrown, Interrupted)
    assert operations.thrown.cause is None
    assert operations.replies == [b'OK', b'OK']
