"""Examples of endless producers and consumers."""

from __future__ import annotations

import signal

import anyio
import pytest

from tests.examples.support import running
from tests.servers import Server
from torrelque import Torrelque, TorrelqueQueueStats, connect


async def look(url: str) -> TorrelqueQueueStats:
    async with connect(url) as client, Torrelque(client, queue='mail') as queue:
        return await queue.get_queue_stats()


@pytest.mark.parametrize('loop', ['asyncio', 'trio'])
def test_what_fails_is_tried_again_and_ctrl_c_leaves_nothing_claimed(loop: str, server: Server) -> None:
    with running(f'examples/producer_consumer_{loop}.py', server.url) as program:
        number = program.read_until(r'message (\d+) failed, trying again in 1 s')[1]
        program.read_until(rf'message {number} sent')
        program.read_until('enqueued')
        program.process.send_signal(signal.SIGINT)
        printed = program.read_to_the_end()
    assert 'Traceback' not in printed
    stats = anyio.run(look, server.url)
    assert stats.total_enqueued >= printed.count('enqueued')
    assert stats.total_enqueued == stats.total_completed + stats.pending + stats.delayed + stats.working
    # What a consumer held is given back, unless it was just about to tell that it is done or has failed.
    unsaid = printed.count('sent') - stats.total_completed + printed.count('failed') - stats.total_requeued
    assert stats.working <= unsaid
