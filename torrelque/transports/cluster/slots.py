"""The hash slot of a key on a cluster."""

from __future__ import annotations

from binascii import crc_hqx

from torrelque.core.protocol import Arg

__all__ = ('SLOTS', 'slot_of')

SLOTS = 16384


def slot_of(key: Arg) -> int:
    """Return the slot of a key, from 0 to 16383.

    The Redis Cluster Specification defines it under "Key distribution model":
    the CRC16 of the key, or of the part between its first ``{`` and the next
    ``}`` if that is not empty. The CRC is XMODEM (polynomial 0x1021, initial
    value 0), which the BinHex format uses as well.
    """
    name = key if isinstance(key, bytes) else str(key).encode()
    _, opening, rest = name.partition(b'{')
    if opening:
        tag, closing, _ = rest.partition(b'}')
        if closing and tag:
            name = tag
    return crc_hqx(name, 0) % SLOTS
