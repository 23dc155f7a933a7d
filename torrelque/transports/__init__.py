"""Adapters from the clients that users hold to what the engine needs."""

from __future__ import annotations

from torrelque.errors import TorrelqueUsageError
from torrelque.transports.base import Transport

__all__ = ('Transport', 'adapt')


def adapt(client: object) -> Transport:
    """The transport for a client."""
    if isinstance(client, Transport):
        return client
    raise TorrelqueUsageError(f'{client!r} is no client that can be used')
