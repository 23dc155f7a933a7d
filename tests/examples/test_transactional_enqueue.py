"""The example of a task in the application's own transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
import redis.asyncio

from examples.transactional_enqueue import ORDERS, STOCK, buy
from tests.examples.support import output_of
from tests.servers import Server
from torrelque import Torrelque


def test_there_is_a_mail_for_each_order(server: Server) -> None:
    printed = output_of('examples/transactional_enqueue.py', server.url)
    assert printed.count('has a ticket') == 3
    assert printed.count('was too late') == 2
    assert printed.endswith('orders: 3, mails to send: 3\n')


class InterruptedQueue(Torrelque):
    """Something happens after the task was put into the transaction, and before that is sent."""

    interruption: Callable[[], object]

    async def enqueue(self, task: Any, **options: Any) -> str:  # noqa: ANN401 - as the base
        task_id = await super().enqueue(task, **options)
        self.interruption()
        return task_id


async def buy_interrupted(url: str, interruption: Callable[[], object]) -> bool:
    async with redis.asyncio.Redis.from_url(url) as client, InterruptedQueue(client, queue='tickets') as queue:
        queue.interruption = interruption
        return await buy(client, queue, 'Ann')


def traces(server: Server) -> list[int]:
    """Numbers of orders and of tasks."""
    return [server.command('LLEN', ORDERS), server.command('LLEN', 'tickets:pending')]


def test_if_another_is_quicker_neither_happens(server: Server) -> None:
    server.command('SET', STOCK, 1)
    assert not anyio.run(buy_interrupted, server.url, lambda: server.command('SET', STOCK, 0))
    assert traces(server) == [0, 0]


def test_if_the_application_fails_before_it_has_sent_the_transaction_neither_happens(server: Server) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    server.command('SET', STOCK, 1)
    with pytest.raises(ZeroDivisionError):
        anyio.run(buy_interrupted, server.url, fail)
    assert traces(server) == [0, 0]


def test_otherwise_both_happen(server: Server) -> None:
    server.command('SET', STOCK, 1)
    assert anyio.run(buy_interrupted, server.url, lambda: traces(server))
    assert traces(server) == [1, 1]
