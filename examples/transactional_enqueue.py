"""A task in the same transaction as the application's own write: both happen, or neither does.

Five customers want the last three tickets at the same time. Selling one takes
it from the stock, records the order and enqueues the task that mails it, all in
one MULTI of redis-py, so there is never an order without its mail, nor a mail
without an order::

    python examples/transactional_enqueue.py redis://localhost:6379

A transaction of Redis is not rolled back: one that is sent is run to its end, also
if a command in it is wrong, say for the type of its key.
"""

from __future__ import annotations

import asyncio
import sys

import redis.asyncio

from torrelque import Torrelque

STOCK = 'shop:tickets'
ORDERS = 'shop:orders'


async def buy(client: redis.asyncio.Redis, queue: Torrelque, customer: str) -> bool:
    """Sell a ticket; False if there are none left."""
    while True:
        async with client.pipeline(transaction=True) as transaction:
            await transaction.watch(STOCK)
            if int(await transaction.get(STOCK) or 0) < 1:
                return False
            transaction.multi()  # type: ignore[no-untyped-call]  # redis-py has no type for it
            transaction.decr(STOCK)
            transaction.rpush(ORDERS, customer)
            await queue.enqueue({'mail-ticket-to': customer}, pipeline=transaction)  # nothing is sent yet
            try:
                await transaction.execute()
            except redis.WatchError:
                continue  # somebody else bought one meanwhile: nothing of all this has happened, look again
            return True


async def main(url: str = 'redis://localhost:6379') -> None:
    async with redis.asyncio.Redis.from_url(url) as client, Torrelque(client, queue='tickets') as queue:
        await client.set(STOCK, 3)
        await client.delete(ORDERS)
        customers = ['Ann', 'Bob', 'Cid', 'Dee', 'Eve']
        answers = await asyncio.gather(*[buy(client, queue, customer) for customer in customers])
        for customer, sold in zip(customers, answers, strict=True):
            print(customer, 'has a ticket' if sold else 'was too late')
        orders = await client.lrange(ORDERS, 0, -1)
        tasks = await queue.dequeue_nowait(max_tasks=10)
        print(f'orders: {len(orders)}, mails to send: {len(tasks)}')
        await queue.release_many(tasks)


if __name__ == '__main__':
    asyncio.run(main(*sys.argv[1:]))
