"""Endless producing and consuming on asyncio, over redis-py; what fails is tried again.

Run it as often as you like at the same time, and stop it with Ctrl-C::

    python examples/producer_consumer_asyncio.py redis://localhost:6379
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
from typing import Any

import redis.asyncio

from torrelque import Torrelque

CONSUMERS = 3


async def send(message: dict[str, Any]) -> None:
    """What there is to do. It takes a while, and one time in four it does not work."""
    await asyncio.sleep(random.uniform(0.1, 0.5))
    if random.random() < 0.25:
        raise ConnectionError('the mail server hung up')


async def produce(queue: Torrelque) -> None:
    for number in itertools.count(1):
        await queue.enqueue({'number': number, 'to': 'joe@doe.com'}, task_timeout=30)
        print(f'message {number} enqueued')
        await asyncio.sleep(0.2)


async def consume(queue: Torrelque) -> None:
    while True:
        task_id, message = await queue.dequeue()
        try:
            await send(message)
        except asyncio.CancelledError:
            await queue.giveback(task_id)  # to the front of the queue, so that nobody has to wait for the time-out
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
            print(f'message {message["number"]} failed, trying again in 1 s: {error}')
            await queue.requeue(task_id, delay=1)
        else:
            print(f'message {message["number"]} sent')
            await queue.release(task_id)


async def main(url: str = 'redis://localhost:6379') -> None:
    async with (
        redis.asyncio.Redis.from_url(url) as client,
        Torrelque(client, queue='mail') as queue,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(produce(queue))
        for _ in range(CONSUMERS):
            group.create_task(consume(queue))


if __name__ == '__main__':
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C cancels main(), and with it all of the group
        asyncio.run(main(*sys.argv[1:]))
