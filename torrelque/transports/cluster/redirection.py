"""What a node of a cluster answers when a call cannot be done there, or not now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torrelque.core.protocol import Batch, Reply
from torrelque.errors import TorrelqueReplyError
from torrelque.transports.cluster.topology import place
from torrelque.transports.native.url import Address

__all__ = ('Redirection', 'redirected', 'to_repeat')

LATER = ('CLUSTERDOWN', 'TRYAGAIN')

LOAD = 'SCRIPT LOAD'


class Redirection(NamedTuple):
    """``code`` is MOVED, ASK, TRYAGAIN or CLUSTERDOWN; ``to`` the node that the first two name."""

    code: str
    to: Address | None = None


def redirected(reply: Reply, asked: Address) -> Redirection | None:
    """How the reply of the node ``asked`` sends a call elsewhere; None if it is an answer."""
    if not isinstance(reply, TorrelqueReplyError):
        return None
    if reply.code in ('MOVED', 'ASK'):
        host, _, port = str(reply).split()[2].rpartition(':')
        return Redirection(reply.code, place(asked, host, int(port)))
    return Redirection(reply.code) if reply.code in LATER else None


def to_repeat(batch: Batch, places: Sequence[int], wanted: set[int]) -> list[int]:
    """Of a batch's calls at ``places``, those ``wanted`` again.

    With the scripts that were loaded for them, which have to be where they run.
    """
    last = max(wanted)
    return [index for index in places if index in wanted or (batch[index].command == LOAD and index < last)]
