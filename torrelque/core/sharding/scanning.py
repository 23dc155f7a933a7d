"""Scans a server's keys once for all shards of a queue, not once for each."""

from __future__ import annotations

from torrelque.core.operations import literally, scan_keys
from torrelque.core.protocol import Arg, Operation

__all__ = ('scan_shards',)


def scan_shards(
    queue: str, rest: str, cursor: bytes, near: Arg | None
) -> Operation[tuple[bytes, dict[int, list[bytes]]]]:
    """Take a step through the keys of a queue's shards.

    Args:
        queue: The queue's name.
        rest: What follows the shard's name and a colon at the beginning of the wanted keys; '' takes all.
        cursor: b'0', or what the step before returned.
        near: A key on the server to look at, on a cluster.

    Returns:
        The next cursor, b'0' at the end, and the keys found, by the number of their shard.
    """
    before, behind = f'{{{queue}:'.encode(), f'}}:{rest}'.encode()
    pattern = literally(before) + b'*' + literally(behind) + b'*'
    next_cursor, keys = yield from scan_keys(near, pattern, cursor)
    found: dict[int, list[bytes]] = {}
    for key in keys:
        number, brace, inner = key.removeprefix(before).partition(b'}')
        if number.isdigit() and str(int(number)).encode() == number and (brace + inner).startswith(behind):
            found.setdefault(int(number), []).append(key)
    return next_cursor, found
