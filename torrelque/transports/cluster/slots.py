"""Which of a cluster's slots a key belongs to."""

from __future__ import annotations

from binascii import crc_hqx

from torrelque.core.protocol import Arg

__all__ = ('SLOTS', 'slot_of')

SLOTS = 16384


def slot_of(key: Arg) -> int:
    """The slot from 0 to 16383 that all servers put a key in.

    As the Redis Cluster Specification says under "Key distribution model": the
    CRC16 of the key, or of what is between its first ``{`` and the next ``}``
    if that is not empty. The CRC is the one called XMODEM (polynomial 0x1021,
    from 0), which is also the one of the BinHex format.
    """
    name = key if isinstance(key, bytes) else str(key).encode()
    _, opening, rest = name.partition(b'{')
    if opening:
        tag, closing, _ = rest.partition(b'}')
        if closing and tag:
            name = tag
    return crc_hqx(name, 0) % SLOTS
