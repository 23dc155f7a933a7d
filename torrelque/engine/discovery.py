"""Finds the queues on a server, and how many shards they have."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from torrelque.core import checks, operations
from torrelque.core.keys import Keys, shard_name, shard_of_name, tagged, untagged
from torrelque.core.protocol import Arg
from torrelque.core.sharding import layout as sharding
from torrelque.engine.driving import drive
from torrelque.engine.listing import Listing
from torrelque.transports import adapt
from torrelque.transports.base import Transport

__all__ = ('queues', 'shards_of')

logger: logging.Logger = logging.getLogger('torrelque')

MOST_FOREIGN = 1000
"""Maximum number of keys of other programs to remember, so that each is reported once."""

_foreign: set[bytes] = set()


def queues(client: object) -> AsyncIterator[str]:
    """List the queues on a server, found by SCAN in bounded steps.

    A name may come twice. A queue with shards comes once, without their numbers.
    Queues that only 0.9 has used are not found. A key that is named like a
    queue's but holds something else is skipped, with one warning in the log.

    Args:
        client: What :class:`Torrelque` takes.

    Raises:
        TorrelqueConnectionError: The server cannot be reached.
        TorrelqueReplyError: The server refuses the commands.
    """
    transport = adapt(client)

    async def page(near: Arg | None, cursor: bytes) -> tuple[bytes, list[str]]:
        cursor, counters = await drive(transport, operations.scan_queues(cursor, near))
        return cursor, [name for key in counters if (name := await _queue_of(transport, key)) is not None]

    return Listing(transport.nodes, page)


async def _queue_of(transport: Transport, key: bytes) -> str | None:
    """Return the name of the queue with these counters; None for a shard, whose queue has its own, or another key."""
    found = await drive(transport, operations.examine(key))
    if found is None:
        _report_foreign(key)
        return None
    if found.shards is not None:  # its shards and the queue without shards have counters as well
        is_record = found.name.startswith('{') and shard_of_name(found.name) is None
        return untagged(found.name) if is_record else None
    return untagged(found.name) if transport.on_cluster else found.name


def _report_foreign(key: bytes) -> None:
    if key in _foreign:
        return
    if len(_foreign) >= MOST_FOREIGN:
        _foreign.clear()
    _foreign.add(key)
    logger.warning('Skipped the key %r: it is named like the counters of a queue, but holds something else', key)


async def shards_of(client: object, queue: str) -> int | None:
    """Read how many shards a queue has, as `Torrelque` needs to know.

    Args:
        client: What :class:`Torrelque` takes.
        queue: The queue's name.

    Returns:
        The number of shards; None if the queue has none, or does not exist.
    """
    name = tagged(checks.check_text('queue', queue))
    if '{' in queue or '}' in queue or shard_of_name(name) is not None:  # such queues have no shards
        return None
    transport, newest = adapt(client), None
    try:
        for prefix in (name, shard_name(queue, 0)):  # if the queue's own record is lost, its shards have copies
            layout, begun = await drive(transport, sharding.read_layout(Keys.of_queue(prefix)))
            newest = newest or begun or layout
    finally:
        if transport is not client:
            await transport.aclose()
    return newest and newest.shards
