"""Helpers for testing code that uses a queue: a server in memory, and a clock that the test controls.

::

    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        ...

They do not need pytest.
"""

from torrelque.transports.memory import MemoryServer, MemoryTransport, VirtualClock

__all__ = ('MemoryServer', 'MemoryTransport', 'VirtualClock')
