"""How long a call may take when the server is gone: as long as it may be repeated, and little more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from tests.servers import Server
from torrelque import Torrelque, TorrelqueConnectionError, connect
from torrelque.core.protocol import Batch, Reply
from torrelque.transports.memory import MemoryServer, MemoryTransport

pytestmark = pytest.mark.anyio

BUDGET = 4.0
LONGEST = BUDGET + 2
"""Seconds: one more than a call may take, for a machine under load; twice the budget is well above."""

SETTINGS: Sequence[Any] = (
    pytest.param({'retry_timeout': BUDGET}, {}, id='retry_timeout'),
    pytest.param({'retry_timeout': 0}, {'failover_timeout': BUDGET}, id='failover_timeout'),
)


async def took(call: Callable[[], Any]) -> float:
    """Seconds until a call fails."""
    begun = anyio.current_time()
    with pytest.raises(TorrelqueConnectionError):
        await call()
    return anyio.current_time() - begun


@pytest.mark.parametrize(('of_client', 'of_queue'), SETTINGS)
async def test_the_settling_of_a_call_takes_no_time_of_its_own(
    fresh_server: Callable[..., Server], of_client: dict[str, Any], of_queue: dict[str, Any]
) -> None:
    server = fresh_server()
    async with connect(server.url, **of_client) as client, Torrelque(client, queue='q', **of_queue) as queue:
        await queue.enqueue('a')
        (task,) = await queue.dequeue_nowait()
        server.kill()
        async with anyio.create_task_group() as tasks:
            times: list[float] = []

            async def measure(call: Callable[[], Any]) -> None:
                times.append(await took(call))

            tasks.start_soon(measure, lambda: queue.release(task))
            tasks.start_soon(measure, lambda: queue.enqueue('b'))
            tasks.start_soon(measure, queue.dequeue_nowait)
        assert all(BUDGET - 1 < each < LONGEST for each in times), times
        server.start()
        assert await queue.enqueue('c')


class Silent(MemoryTransport):
    """A connection that breaks; then the server does not answer any more."""

    silent = False

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        if self.silent:
            raise TorrelqueConnectionError('cut')
        return await super().execute(batch)

    async def execute_once(self, batch: Batch) -> Sequence[Reply]:
        if self.silent:
            await anyio.sleep_forever()
        return await super().execute(batch)


async def test_a_silent_server_is_given_a_moment_to_settle_a_call() -> None:
    transport = Silent(server=MemoryServer())
    async with Torrelque(transport, queue='q') as queue:
        await queue.enqueue('a')
        transport.silent = True
        assert await took(lambda: queue.enqueue('b')) < 2
        transport.silent = False
        await queue.enqueue('c')
        assert (await queue.get_queue_stats()).tasks == 2
