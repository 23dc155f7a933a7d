"""Tests that every transport passes, for pytest with anyio's plugin, which comes with anyio.

Whoever writes a transport of their own runs them over it. :class:`TransportConformance`
checks what :class:`~torrelque.transports.base.Transport` promises,
:class:`ServerConformance` adds what only a transport to a real server can do (scripts
of one's own, connections that the server cuts), and :class:`QueueConformance` uses
the queue over it. Subclass them in a test module and say, with the fixture
``client_factory``, how to make a client::

    from contextlib import asynccontextmanager

    import pytest

    from torrelque.testing.conformance import QueueConformance, ServerConformance
    from mine import MyTransport


    @pytest.fixture(params=['asyncio', 'trio'])
    def anyio_backend(request):
        return request.param


    class TestMyTransport(ServerConformance, QueueConformance):
        @pytest.fixture
        def client_factory(self):
            @asynccontextmanager
            async def make():
                transport = MyTransport('127.0.0.1', 6379)
                yield transport
                await transport.aclose()

            return make

``client_factory`` is called several times a test; all its clients must reach the same
server and database. A client is whatever :class:`torrelque.Torrelque` takes. Keys and
queues have random names and are left behind, so the server need not be empty and should
be one that nobody minds; ServerConformance also cuts the connections of others.

After each test, tasks of the event loop, sockets of this process and clients that are
blocked on the server have to be back where they were, within 20 seconds. The server is
asked over a client of its own; override the fixture ``count_blocked`` to ask in another way.

Without ``anyio_backend`` anyio's own fixture runs each test on every event loop that it
knows. A test that a transport cannot pass by its nature is taken out with
``test_name = None`` in the subclass, and a comment that says why.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f'{__name__}.{module}'
        for module in ('support', 'transport', 'producing', 'consuming', 'claims', 'observing', 'crowds')
    )
)

from torrelque.testing.conformance.queue import QueueConformance  # noqa: E402 - asserts are rewritten as it is imported
from torrelque.testing.conformance.support import ClientFactory  # noqa: E402 - as above
from torrelque.testing.conformance.transport import ServerConformance, TransportConformance  # noqa: E402 - as above

__all__ = ('ClientFactory', 'QueueConformance', 'ServerConformance', 'TransportConformance')
