"""Tests for transports, for pytest with the plugin that comes with anyio.

Run them over your own transport. :class:`TransportConformance` checks the contract of
:class:`~torrelque.transports.base.Transport`. :class:`ServerConformance` adds tests that
need a real server (other scripts, connections that the server closes).
:class:`QueueConformance` uses the queue over the transport. Subclass them in a test
module, and define the fixture ``client_factory``, which creates a client::

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

``client_factory`` is called several times per test. All its clients must connect to the
same server and database. A client is anything that :class:`torrelque.Torrelque` accepts.

The server need not be empty, because keys and queues have random names. But they are not
removed, and ServerConformance closes the connections of other clients, so use a disposable
server.

Within 20 seconds after each test, the numbers of event-loop tasks, of this process's
sockets and of clients blocked on the server must return to their former values. A separate
client reads the last number from the server; override the fixture ``count_blocked`` to
count differently.

If you do not define ``anyio_backend``, anyio's fixture runs each test on every event loop
that it supports. If your transport cannot pass a test in principle, set
``test_name = None`` in the subclass, with a comment that says why.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f'{__name__}.{module}'
        for module in ('support', 'transport', 'producing', 'consuming', 'grouping', 'claims', 'observing', 'crowds')
    )
)

from torrelque.testing.conformance.queue import QueueConformance  # noqa: E402 - importing it rewrites its asserts
from torrelque.testing.conformance.support import ClientFactory  # noqa: E402
from torrelque.testing.conformance.transport import ServerConformance, TransportConformance  # noqa: E402

__all__ = ('ClientFactory', 'QueueConformance', 'ServerConformance', 'TransportConformance')
