"""The native transport: no client library, anyio's streams and hiredis only.

- :mod:`~torrelque.transports.native.url`: where the server is
- :mod:`~torrelque.transports.native.options`: what connections are made with
- :mod:`~torrelque.transports.native.connection`: one connection
- :mod:`~torrelque.transports.native.dialer`: opens connections and introduces itself
- :mod:`~torrelque.transports.native.multiplexer`: one connection for many tasks, with repeats
- :mod:`~torrelque.transports.native.blocking`: a connection for each blocking call
- :mod:`~torrelque.transports.native.node`: all connections to one server, and what one reveals about the others
- :mod:`~torrelque.transports.native.listener`: a connection for subscriptions
- :mod:`~torrelque.transports.native.sentinel`: connections to the primary that sentinels name
- :mod:`~torrelque.transports.native.transport`: all of them behind the transport interface
- :mod:`~torrelque.transports.native.connect`: which transport a URL asks for
- :mod:`~torrelque.transports.cluster.native`: the same over a cluster, with
  :mod:`~torrelque.transports.cluster.topology` (which node serves a slot) and
  :mod:`~torrelque.transports.cluster.redirection` (what a node answers when it does not)
"""

from torrelque.transports.native.connect import connect
from torrelque.transports.native.transport import NativeTransport

__all__ = ('NativeTransport', 'connect')
