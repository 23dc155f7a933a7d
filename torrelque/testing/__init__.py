"""What tests of code that uses a queue import: a queue without a server, and time that stands still.

::

    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock)) as queue:
        ...

Needs no pytest.
"""

from torrelque.transports.memory import MemoryServer, MemoryTransport, VirtualClock

__all__ = ('MemoryServer', 'MemoryTransport', 'VirtualClock')
