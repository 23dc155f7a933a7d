"""All that is true of a queue is true of an instrumented one, and each span that was begun has an end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from tests import servers
from tests.otel.support import Telescope
from tests.transports.settings import CLIENTS, LOOPS, Setting, memory_client
from torrelque import Client
from torrelque.otel import InstrumentedTorrelque
from torrelque.testing import MemoryServer
from torrelque.testing.conformance import ClientFactory, QueueConformance
from torrelque.testing.conformance.support import unique


class Open(SpanProcessor):
    """The spans that have no end yet."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.begun = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        assert span.context is not None
        self.names[span.context.span_id] = span.name
        self.begun += 1

    def on_end(self, span: ReadableSpan) -> None:
        assert span.context is not None
        del self.names[span.context.span_id]


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


class TestConformance(QueueConformance):
    # They compare all headers, and there is one more.
    test_a_task: Any = None
    test_headers_travel_along: Any = None

    @pytest.fixture(params=[Setting('memory', 'asyncio', 'memory'), Setting('native', 'trio', 'valkey-9.1')], ids=str)
    def setting(self, request: pytest.FixtureRequest) -> Setting:
        chosen: Setting = request.param
        return chosen

    @pytest.fixture
    def client_factory(self, setting: Setting) -> ClientFactory:
        if setting.client == 'memory':
            return partial(memory_client, MemoryServer())
        try:
            server = servers.shared(setting.server)
        except servers.MissingServerError as error:
            pytest.skip(str(error))
        return partial(CLIENTS[setting.client].make, server)

    @pytest.fixture
    async def queue(self, client: Client) -> AsyncIterator[InstrumentedTorrelque]:
        telescope, still_open = Telescope(), Open()
        telescope.tracers.add_span_processor(still_open)
        async with telescope.queue(client, unique()) as queue:
            yield queue
        assert still_open.names == {}
