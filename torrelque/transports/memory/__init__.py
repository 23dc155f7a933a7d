"""A server in memory, and the transport to it.

``keyspace`` holds the data, ``commands`` are the plain ones, ``prelude``,
``claims`` and ``verbs`` model the scripts: read them beside core/scripts.
"""

from torrelque.transports.memory.clock import VirtualClock
from torrelque.transports.memory.server import MemoryServer
from torrelque.transports.memory.transport import MemoryTransport

__all__ = ('MemoryServer', 'MemoryTransport', 'VirtualClock')
