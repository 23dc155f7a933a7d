"""The exporter's web server."""

from __future__ import annotations

import pytest

from tests.cli.exporter.test_metrics import exporting
from tests.cli.support import Command

pytestmark = pytest.mark.anyio


@pytest.fixture(scope='module', params=[('asyncio', {})], ids=['asyncio'])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The command's own loop."""
    return request.param


async def test_paths_and_forms(command: Command) -> None:
    async with exporting(command.url) as exporter:
        assert await exporter.get('/healthz') == (200, 'text/plain; charset=utf-8', 'ok\n')
        assert (await exporter.get('/')).status == 404
        assert (await exporter.get('/metrics')).kind.startswith('text/plain; version=')
        modern = await exporter.get('/metrics', Accept='application/openmetrics-text; version=1.0.0')
        assert modern.kind.startswith('application/openmetrics-text')
        assert modern.text.endswith('# EOF\n')


async def test_on_ipv6(command: Command) -> None:
    async with exporting(command.url, host='::1') as exporter:
        assert exporter.url.startswith('http://[::1]:')
        assert (await exporter.scrape())['up',] == 1
