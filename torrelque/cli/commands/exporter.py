"""The command that serves metrics for Prometheus."""

from __future__ import annotations

from typing import Annotated

import typer

from torrelque import Torrelque, connect
from torrelque.cli.exit_codes import require
from torrelque.cli.output import errors
from torrelque.cli.settings import Settings

__all__ = ('exporter',)


async def exporter(
    settings: Settings,
    queue: Annotated[
        list[str] | None,
        typer.Option(
            '--queue',
            '-q',
            metavar='NAME',
            show_default=False,
            help='A queue to report; repeatable. By default, every queue found on the server.',
        ),
    ] = None,
    host: Annotated[str, typer.Option(metavar='ADDRESS', help='The address to listen on.')] = '127.0.0.1',
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar='PORT', help='The port to listen on; 0 picks a free one.')
    ] = 9752,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=60, metavar='SECONDS', help='How long reading the server may take.')
    ] = 5.0,
    rescan: Annotated[float, typer.Option(min=1, metavar='SECONDS', help='How often to look for new queues.')] = 30.0,
) -> None:
    """Serve metrics for Prometheus until stopped.

    /metrics reads the server at each request. /healthz answers while the
    exporter runs. torrelque_up is 0 while the server cannot be read. Finding
    queues scans all keys of the database in bounded steps.
    """
    require({'prometheus_client': 'exporter'})
    from torrelque.cli.exporter.metrics import Source  # noqa: PLC0415 - the import needs the package
    from torrelque.cli.exporter.web import serve  # noqa: PLC0415 - see above

    client = connect(settings.url)  # does not connect, but checks the URL; the loop checks the names
    for name in queue or ():
        Torrelque(client, queue=name)
    source = Source(lambda: connect(settings.url, retry_timeout=0), queue or None, timeout, rescan)
    await serve(source, host, port, lambda url: errors().print(f'Metrics are at {url}/metrics'))
