"""TLS that cannot be set up raises at once, with the reason, and is not tried again."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import coredis
import coredis.exceptions
import pytest
import redis.asyncio

from tests.servers import Server
from tests.transports.certificates import Certificates
from tests.transports.native_support import Start, call
from tests.transports.outages import Kind, anyio_backend, kind
from torrelque import Client, Torrelque, TorrelqueHandshakeError, TorrelqueRefusedError
from torrelque.transports import Transport, adapt

pytestmark = pytest.mark.anyio
__all__ = ('anyio_backend', 'kind')

AT_ONCE = 5.0
"""Seconds, for a machine under load; clients that go on trying take longer, or for ever."""


class Endpoint(NamedTuple):
    host: str
    port: int
    authority: Path | None = None
    """Whom the client trusts; with None it connects without TLS."""
    certificate: tuple[Path, Path] | None = None
    """The client's own."""


@asynccontextmanager
async def redis_py(to: Endpoint, **options: Any) -> AsyncIterator[Client]:  # noqa: ANN401 - redis-py's
    settings: dict[str, Any] = dict(options)
    if to.authority:
        # Its versions before 6 do not check the name by default.
        settings.update(ssl=True, ssl_ca_certs=str(to.authority), ssl_check_hostname=True)
    if to.certificate:
        settings.update(ssl_certfile=to.certificate[0], ssl_keyfile=to.certificate[1])
    client = redis.asyncio.Redis(host=to.host, port=to.port, **settings)  # it retries as it likes
    async with aclosing(client):
        yield client


@asynccontextmanager
async def with_coredis(to: Endpoint, **options: Any) -> AsyncIterator[Client]:  # noqa: ANN401 - coredis's
    context = ssl.create_default_context(cafile=to.authority) if to.authority else None
    if context is not None and to.certificate:
        context.load_cert_chain(*to.certificate)
    client: coredis.Redis[Any] = coredis.Redis(host=to.host, port=to.port, ssl_context=context, **options)
    async with client:
        yield client


CLIENTS = {'redis_py': redis_py, 'coredis': with_coredis}


@pytest.fixture(scope='module')
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp('tls'))


@pytest.fixture(scope='module')
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp('others'))


Serve = Callable[..., int]


@pytest.fixture
def serve(fresh_server: Start, certificates: Certificates, free_tcp_port: int) -> Serve:
    """Starts a server with TLS; with ``clients`` it wants a certificate of them, too."""

    def start(certificate: tuple[Path, Path], *, clients: bool = False) -> int:
        names = '--tls-cert-file', str(certificate[0]), '--tls-key-file', str(certificate[1])
        trusted = '--tls-ca-cert-file', str(certificates.authority), '--tls-auth-clients', 'yes' if clients else 'no'
        fresh_server('--tls-port', str(free_tcp_port), *names, *trusted, name='redis-7.0')
        return free_tcp_port

    return start


async def is_refused(transport: Transport, reason: str) -> None:
    """By every way to the server."""

    async def listen() -> None:
        async with transport.listen():
            pass

    for attempt in (
        partial(transport.execute, [call('PING')]),
        partial(transport.execute_dedicated, [call('PING')], 1),
        partial(transport.block, call('PING'), 1),
        listen,
    ):
        start = time.monotonic()
        with pytest.raises(TorrelqueHandshakeError, match=reason) as caught:
            await attempt()
        assert isinstance(caught.value, redis.RedisError | coredis.exceptions.RedisError)
        assert time.monotonic() - start < AT_ONCE
    await transport.aclose()


async def refuses(kind: Kind, to: Endpoint, reason: str) -> None:
    async with CLIENTS[kind.client](to) as client:
        await is_refused(adapt(client), reason)
        async with Torrelque(client, failover_timeout=60) as queue:
            start = time.monotonic()
            with pytest.raises(TorrelqueHandshakeError, match=reason):
                await queue.enqueue('a')
            assert time.monotonic() - start < AT_ONCE


async def test_tls_works(kind: Kind, serve: Serve, certificates: Certificates) -> None:
    port = serve(certificates.signed('server'), clients=True)
    to = Endpoint('127.0.0.1', port, certificates.authority, certificates.signed('client'))
    async with CLIENTS[kind.client](to) as client, Torrelque(client) as queue:
        await queue.enqueue('a')
        await queue.release(await queue.dequeue(5))


async def test_a_certificate_that_is_not_trusted(
    kind: Kind, serve: Serve, certificates: Certificates, others: Certificates
) -> None:
    port = serve(certificates.signed('server'))
    reason = f'TLS handshake with 127.0.0.1:{port} failed: certificate verify failed: '
    await refuses(kind, Endpoint('127.0.0.1', port, others.authority), reason)


async def test_a_certificate_that_has_expired(kind: Kind, serve: Serve, certificates: Certificates) -> None:
    port = serve(certificates.signed('expired', days=-1))
    reason = f'TLS handshake with 127.0.0.1:{port} failed: certificate verify failed: certificate has expired'
    await refuses(kind, Endpoint('127.0.0.1', port, certificates.authority), reason)


async def test_a_certificate_for_another_host(kind: Kind, serve: Serve, certificates: Certificates) -> None:
    port = serve(certificates.signed('other', 'DNS:example.org'))
    await refuses(
        kind, Endpoint('127.0.0.1', port, certificates.authority), 'certificate verify failed: IP address mismatch'
    )


async def test_a_client_without_a_certificate(kind: Kind, serve: Serve, certificates: Certificates) -> None:
    port = serve(certificates.signed('server'), clients=True)
    await refuses(kind, Endpoint('127.0.0.1', port, certificates.authority), 'failed: .*certificate required')


async def test_a_client_with_a_certificate_that_the_server_does_not_trust(
    kind: Kind, serve: Serve, certificates: Certificates, others: Certificates
) -> None:
    port = serve(certificates.signed('server'), clients=True)
    to = Endpoint('127.0.0.1', port, certificates.authority, others.signed('client'))
    await refuses(kind, to, 'failed: .*alert (unknown ca|certificate unknown|bad certificate)')


async def test_a_client_without_tls(kind: Kind, serve: Serve, certificates: Certificates) -> None:
    port = serve(certificates.signed('server'))
    await refuses(kind, Endpoint('127.0.0.1', port), 'failed: the server expects TLS')


async def test_a_certificate_that_changes_under_a_queue(
    kind: Kind, fresh_server: Start, certificates: Certificates, others: Certificates, free_tcp_port: int
) -> None:
    def start(certificate: tuple[Path, Path]) -> Server:
        names = '--tls-cert-file', str(certificate[0]), '--tls-key-file', str(certificate[1])
        trusted = '--tls-ca-cert-file', str(certificates.authority), '--tls-auth-clients', 'no'
        return fresh_server('--tls-port', str(free_tcp_port), *names, *trusted, name='redis-7.0')

    server = start(certificates.signed('server'))
    to = Endpoint('127.0.0.1', free_tcp_port, certificates.authority)
    async with CLIENTS[kind.client](to) as client, Torrelque(client) as queue:
        await queue.enqueue('a')
        server.kill()
        start(others.signed('server'))
        with pytest.raises(TorrelqueHandshakeError, match='certificate verify failed'):
            await queue.enqueue('a')


@pytest.mark.parametrize('settings', [{'password': 'wrong'}, {'username': 'nobody', 'password': 'x'}, {}], ids=str)
async def test_a_wrong_password(kind: Kind, fresh_server: Start, settings: dict[str, str]) -> None:
    server = fresh_server('--requirepass', 'secret')
    async with (
        CLIENTS[kind.client](Endpoint('127.0.0.1', server.port), **settings) as client,
        Torrelque(client, failover_timeout=60) as queue,
    ):
        for attempt in (partial(queue.enqueue, 'a'), partial(queue.dequeue, 20)):
            start = time.monotonic()
            with pytest.raises(TorrelqueRefusedError):
                await attempt()
            assert time.monotonic() - start < AT_ONCE
