"""What arrives on anyio's streams over TCP on asyncio, without a task that waits for it.

For each read, anyio's stream starts and stops reading, with two system calls, and wakes a task. Here the event
loop passes on what arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ('Arrivals', 'transport_of')


class Arrivals(asyncio.Protocol):
    """Takes the place of the protocol of anyio's stream, which goes on to send and to close.

    Args:
        transport: The stream's transport.
        protocol: The stream's protocol.
        received: Called with bytes that arrive.
        ended: Called when no more will arrive. The stream's ``receive`` then raises the reason. It may be called twice.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        received: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._protocol = protocol
        self._received = received
        self._ended = ended
        transport.set_protocol(self)
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def eof_received(self) -> bool | None:
        keeps_open = self._protocol.eof_received()
        self._ended()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)
        self._ended()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def write(self, data: bytes) -> None:
        """Send bytes without waiting until they are sent."""
        self._transport.write(data)

    def pause(self) -> None:
        """Stop reading, because too much has arrived that nobody has taken."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading. Does nothing while reading, and once the connection is closed."""
        self._transport.resume_reading()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    @classmethod
    def of(cls, stream: object, received: Callable[[bytes], None], ended: Callable[[], None]) -> Arrivals | None:
        """Take over reading from a stream; None if that is not possible."""
        transport = transport_of(stream)
        if transport is None:
            return None
        protocol: Any = transport.get_protocol()
        return cls(transport, protocol, received, ended)


def transport_of(stream: object) -> asyncio.Transport | None:
    """Return the transport of anyio's stream over TCP on asyncio, for another protocol to take over.

    Returns:
        The transport. None for any other stream, and if something has arrived or the connection has ended.
    """
    transport: asyncio.Transport | None = getattr(stream, '_transport', None)  # anyio has no public way
    protocol: Any = getattr(stream, '_protocol', None)
    if transport is None or not isinstance(protocol, asyncio.Protocol) or transport.is_closing():
        return None
    state = vars(protocol)
    unused = not (state.get('read_queue', True) or state.get('is_at_eof') or state.get('exception'))
    return transport if unused else None
