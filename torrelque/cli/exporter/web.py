"""The exporter's web server. Its threads handle clients, and the event loop reads the queues for them."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from http import HTTPStatus
from socket import AF_INET, AF_INET6
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import anyio
import anyio.lowlevel
from anyio.from_thread import BlockingPortal
from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.registry import Collector

from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.exporter.metrics import Source, families

__all__ = ('serve',)

HEALTH_TIMEOUT = 5.0
"""Maximum time for the event loop to answer a health check, in seconds."""

CLIENT_TIMEOUT = 10.0
"""Maximum time that a client may be silent during a request, in seconds."""

POLL = 0.1
"""Interval at which the server thread checks for a shutdown, in seconds."""


async def serve(source: Source, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve until SIGTERM or until cancelled. ``ready`` is called with the server's URL."""
    async with BlockingPortal() as portal, anyio.create_task_group() as group:
        application = _Application(source, portal)
        try:
            server = _Server(host, port, application)
        except OSError as error:
            raise Refusal(f'cannot listen on {host}, port {port}: {error.strerror}', Exit.USAGE) from None
        with server, anyio.open_signal_receiver(signal.SIGTERM) as signals:
            group.start_soon(source.search)
            threading.Thread(target=server.serve_forever, args=(POLL,), name='exporter', daemon=True).start()
            try:
                ready(server.url)
                async for _ in signals:
                    break
            finally:
                application.stopping = True
                server.shutdown()
        group.cancel_scope.cancel()


class _Application(Collector):
    """The WSGI application and its collector of metrics. Both run in the server's threads."""

    def __init__(self, source: Source, portal: BlockingPortal) -> None:
        self.stopping: bool = False
        self._source = source
        self._portal = portal
        registry = CollectorRegistry()
        registry.register(self)
        self._metrics = make_wsgi_app(registry)

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not read the queues."""
        return ()

    def collect(self) -> Iterator[Metric]:
        begun = time.monotonic()
        return families(self._portal.call(self._source.read), begun)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = _answer(start_response)
        try:
            match environ['PATH_INFO']:
                case '/metrics':
                    return list(self._metrics(environ, start_response))
                case '/healthz':
                    self._portal.start_task_soon(anyio.lowlevel.checkpoint).result(HEALTH_TIMEOUT)
                    return answer(HTTPStatus.OK, 'ok')
                case _:
                    return answer(HTTPStatus.NOT_FOUND, 'there are /metrics and /healthz')
        except TimeoutError:
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, 'the event loop of the exporter does not respond')
        except (CancelledError, RuntimeError):
            if not self.stopping:  # the portal has ended
                raise
            return answer(HTTPStatus.SERVICE_UNAVAILABLE, 'the exporter is stopping')


def _answer(start_response: Callable[..., Any]) -> Callable[[HTTPStatus, str], list[bytes]]:
    def answer(status: HTTPStatus, text: str) -> list[bytes]:
        start_response(f'{status.value} {status.phrase}', [('Content-Type', 'text/plain; charset=utf-8')])
        return [f'{text}\n'.encode()]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - like the base class
        """Log nothing: there is a scrape every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, application: _Application) -> None:
        self.address_family = AF_INET6 if ':' in host else AF_INET
        super().__init__((host, port), _Handler)
        self.set_app(application)

    @property
    def url(self) -> str:
        return f'http://{self.server_name}:{self.server_port}'

    def server_bind(self) -> None:
        """Bind like the base class, but without a DNS look-up of the host's name."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = f'[{host!s}]' if self.address_family == AF_INET6 else str(host)
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - like the base class
        """Ignore clients that disconnect or never send a request."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
