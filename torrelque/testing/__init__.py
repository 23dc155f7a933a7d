"""Helpers for tests of code that uses a queue: a server in memory, and a clock that only the test moves.

::

    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        ...

Needs no pytest.
"""

from torrelque.transports.memory import MemoryServer, MemoryTransport, VirtualClock

__all__ = ('MemoryServer', 'MemoryTransport', 'VirtualClock')
