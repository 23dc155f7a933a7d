"""The native transport, on anyio's streams and hiredis, without a client library.

- :mod:`~torrelque.transports.native.url`: where the server is
- :mod:`~torrelque.transports.native.options`: how to connect
- :mod:`~torrelque.transports.native.connection`: one connection
- :mod:`~torrelque.transports.native.dialer`: opens connections and authenticates
- :mod:`~torrelque.transports.native.multiplexer`: one connection for many tasks, with repeats
- :mod:`~torrelque.transports.native.blocking`: a connection for each blocking call
- :mod:`~torrelque.transports.native.node`: all connections to one server
- :mod:`~torrelque.transports.native.listener`: a connection for subscriptions
- :mod:`~torrelque.transports.native.sentinel`: connections to the primary that sentinels name
- :mod:`~torrelque.transports.native.transport`: implements the transport interface with them
- :mod:`~torrelque.transports.native.connect`: creates the transport for a URL
- :mod:`~torrelque.transports.cluster.native`: the same over a cluster, with
  :mod:`~torrelque.transports.cluster.topology` (which node serves a slot) and
  :mod:`~torrelque.transports.cluster.router` (follows redirections)
"""

from torrelque.transports.native.connect import connect
from torrelque.transports.native.transport import NativeTransport

__all__ = ('NativeTransport', 'connect')
