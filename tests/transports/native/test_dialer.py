"""The native transport: TLS, users and passwords, and what is raised at once as trying again will not help."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.servers import Server
from tests.transports.fake import CUT, echo, fake_server
from tests.transports.native_support import Start, ask, call
from torrelque import Torrelque
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueTypeError,
    TorrelqueValueError,
)
from torrelque.transports.base import Message
from torrelque.transports.native import connect, dialer

pytestmark = pytest.mark.anyio

AT_ONCE = 15
"""Seconds; calls could be repeated for 300."""


async def refused(url: str, **options: Any) -> TorrelqueHandshakeError:  # noqa: ANN401 - those of connect
    """What connecting raises, at once."""
    with anyio.fail_after(AT_ONCE), pytest.raises(TorrelqueHandshakeError) as caught:
        await connect(url, retry_timeout=300, **options).__aenter__()
    return caught.value


def make_certificate(folder: Path, name: str, days: int = 2) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1, and its key; with negative days it has expired."""
    openssl = shutil.which('openssl')
    if openssl is None:
        pytest.skip('openssl is missing: apt-get install openssl')
    cert, key, request, names = (f'{folder}/{name}.{end}' for end in ('pem', 'key', 'csr', 'ext'))
    Path(names).write_text('subjectAltName=IP:127.0.0.1')
    curve = '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'
    for command in (
        ('req', '-new', *curve, '-subj', f'/CN={name}', '-out', request, '-keyout', key),
        ('x509', '-req', '-in', request, '-signkey', key, '-days', str(days), '-extfile', names, '-out', cert),
    ):
        subprocess.run([openssl, *command], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('tls')


@pytest.fixture(scope='module')
def certificate(folder: Path) -> tuple[str, str]:
    return make_certificate(folder, 'server')


Serve = Callable[..., str]


@pytest.fixture
def serve_tls(fresh_server: Start, certificate: tuple[str, str], free_tcp_port: int) -> Serve:
    """Starts a server with TLS, and gives its URL."""

    def serve(*options: str, files: tuple[str, str] = certificate) -> str:
        tls = '--tls-port', str(free_tcp_port), '--tls-cert-file', files[0], '--tls-key-file', files[1]
        fresh_server(*tls, *(options or ('--tls-auth-clients', 'no')), name='redis-7.0')
        return f'rediss://127.0.0.1:{free_tcp_port}'

    return serve


async def test_tls(serve_tls: Serve, certificate: tuple[str, str]) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    payload = os.urandom(1024) * 1024 * 4
    async with connect(serve_tls(), ssl_context=context) as client, client.listen() as listening:
        assert await ask(client, 'SET', 'a', payload) == b'OK'
        assert await client.execute([call('GET', 'a')] * 3) == [payload] * 3
        assert await client.block(call('BLPOP', 'none', '0.01'), 0.01) is None
        await listening.subscribe(b'news')
        assert await listening.receive() == Message(b'news', None)
        await ask(client, 'CLIENT KILL', 'TYPE', 'normal')
        assert await ask(client, 'ECHO', 'x') == b'x'


async def test_a_certificate_that_is_not_trusted(serve_tls: Serve, certificate: tuple[str, str]) -> None:
    url = serve_tls()
    error = await refused(url)
    where = url.removeprefix('rediss://')
    assert str(error) == f'TLS handshake with {where} failed: certificate verify failed: self-signed certificate'
    error = await refused(f'{url.replace("127.0.0.1", "localhost")}?ssl_ca_certs={certificate[0]}')
    assert 'Hostname mismatch' in str(error)


async def test_a_certificate_that_has_expired(serve_tls: Serve, folder: Path) -> None:
    files = make_certificate(folder, 'old', days=-1)
    error = await refused(f'{serve_tls(files=files)}?ssl_ca_certs={files[0]}')
    assert str(error).endswith('certificate verify failed: certificate has expired')


async def test_a_client_certificate(serve_tls: Serve, certificate: tuple[str, str], folder: Path) -> None:
    cert, key = certificate
    url = f'{serve_tls("--tls-ca-cert-file", cert)}?ssl_ca_certs={cert}'
    error = await refused(url)
    assert 'alert certificate required: set ssl_certfile' in str(error)
    cert, key = make_certificate(folder, 'other')
    error = await refused(f'{url}&ssl_certfile={cert}&ssl_keyfile={key}')
    assert 'alert unknown ca' in str(error)
    cert, key = certificate
    async with connect(f'{url}&ssl_certfile={cert}&ssl_keyfile={key}') as client:
        assert await ask(client, 'ECHO', 'x') == b'x'


async def test_an_older_tls_says_less(serve_tls: Serve, certificate: tuple[str, str]) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    error = await refused(serve_tls('--tls-ca-cert-file', certificate[0]), ssl_context=context)
    assert 'alert handshake failure' in str(error)


async def test_tls_on_one_side_only(serve_tls: Serve, fresh_server: Start) -> None:
    error = await refused(serve_tls().replace('rediss', 'redis'))
    assert str(error).endswith('failed: the server expects TLS, which the client is not set to use (rediss://)')
    error = await refused(f'rediss://127.0.0.1:{fresh_server().port}', connect_timeout=1)
    assert str(error).endswith('failed: the server does not use TLS at this port (redis://)')


async def test_a_server_that_closes_connections_is_tried_again() -> None:
    """It is not TLS that is missing."""

    def pong(number: int) -> bytes:
        return CUT if number <= 2 else b'+PONG\r\n'

    async with fake_server(echo, pong=pong) as fake, connect(fake.url) as client:
        assert await ask(client, 'ECHO', 'x') == b'x'


async def test_a_socket_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(_: str) -> None:  # who runs the tests may be root
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(dialer, 'connect_unix', forbidden)
    error = await refused('unix:///run/redis.sock')
    assert str(error) == '/run/redis.sock: permission denied: this user may not connect to the socket'


# Credentials ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(fresh_server: Start) -> Server:
    server = fresh_server('--requirepass', 'default')
    server.command('ACL', 'SETUSER', 'ann', 'on', '>first', '~*', '&*', '+@all')
    return server


def open_url(server: Server) -> str:
    return f'redis://127.0.0.1:{server.port}'


@pytest.mark.parametrize('later', [False, True], ids=['sync', 'async'])
async def test_credentials_are_asked_for_at_each_connection(guarded: Server, *, later: bool) -> None:
    passwords = ['first']
    asked = 0

    def give() -> tuple[str, str]:
        nonlocal asked
        asked += 1
        return 'ann', passwords[-1]

    async def give_later() -> tuple[str, str]:
        await anyio.lowlevel.checkpoint()
        return give()

    async with connect(open_url(guarded), credentials=give_later if later else give) as client:
        assert await ask(client, 'ACL WHOAMI') == b'ann'
        assert asked == 1
        assert await client.block(call('ACL WHOAMI'), 1) == b'ann'
        passwords.append('second')
        guarded.command('ACL', 'SETUSER', 'ann', 'resetpass', '>second')
        guarded.command('CLIENT', 'KILL', 'USER', 'ann')
        assert await ask(client, 'ACL WHOAMI') == b'ann'
        assert asked >= 3


async def test_credentials_that_rotate_as_they_are_used_are_asked_for_again(guarded: Server) -> None:
    passwords = iter(['stale', 'first'])
    async with connect(open_url(guarded), credentials=lambda: ('ann', next(passwords, 'first'))) as client:
        assert await ask(client, 'ACL WHOAMI') == b'ann'
    async with connect(open_url(guarded), credentials=lambda: (None, 'default')) as client:
        assert await ask(client, 'ACL WHOAMI') == b'default'


async def test_credentials_that_are_wrong_are_told(guarded: Server) -> None:
    error = await refused(open_url(guarded), credentials=lambda: ('ann', 'hidden'))
    assert isinstance(error, TorrelqueRefusedError)
    assert error.code == 'WRONGPASS'
    assert 'hidden' not in str(error)


async def test_a_provider_that_fails_for_a_while(guarded: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    failures = 0

    def give() -> tuple[str, str]:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError('no token yet')
        return 'ann', 'first'

    async with (
        connect(open_url(guarded), credentials=give) as client,
        Torrelque(client, queue='q') as queue,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(queue.dequeue)
        for outage in range(2):
            failures = 4
            guarded.command('CLIENT', 'KILL', 'USER', 'ann')
            assert await ask(client, 'ACL WHOAMI') == b'ann'
            assert len([each for each in caplog.records if 'credentials' in each.message]) == outage + 1
        await queue.enqueue('a')


@pytest.mark.parametrize('given', [None, 'ann', ('ann',), ('ann', None), (b'ann', b'first'), ('a', 'b', 'c')])
async def test_a_provider_that_gives_something_else(guarded: Server, given: Any) -> None:  # noqa: ANN401 - bad types
    with pytest.raises(TorrelqueConnectionError, match='expected a user') as caught:
        await connect(open_url(guarded), credentials=lambda: given, retry_timeout=0.2).__aenter__()
    assert 'first' not in str(caught.value)


async def test_a_provider_that_hangs(guarded: Server) -> None:
    async def hang() -> tuple[str, str]:
        await anyio.sleep_forever()
        return '', ''

    with pytest.raises(TorrelqueConnectionError, match='credentials'), anyio.fail_after(AT_ONCE):
        await connect(open_url(guarded), credentials=hang, connect_timeout=0.1, retry_timeout=0.2).__aenter__()


async def test_a_sentinel_has_a_password_of_its_own(fresh_server: Start) -> None:
    """Any server that requires a password will do for one: it is refused before it is asked for the primary."""
    sentinel = fresh_server('--requirepass', 'its own')
    url = f'redis+sentinel://:other@127.0.0.1:{sentinel.port}/mail'
    for options in ({}, {'sentinel_password': 'wrong'}):
        error = await refused(url, **options)
        assert isinstance(error, TorrelqueRefusedError)
        assert 'sentinels have their own password: set sentinel_password' in str(error)
        assert error.code in ('NOAUTH', 'WRONGPASS')
    for client in (
        connect(url, retry_timeout=0, sentinel_password='its own'),
        connect(f'{url}?sentinel_password=its%20own&sentinel_user=default', retry_timeout=0),
    ):
        with pytest.raises(TorrelqueConnectionError, match="unknown command 'SENTINEL'"):
            await client.__aenter__()


def test_what_is_wrong_with_arguments() -> None:
    with pytest.raises(TorrelqueTypeError, match='credentials: expected a function, not tuple'):
        connect('redis://h', credentials=('ann', 'hidden'))  # type: ignore[arg-type]  # the point
    with pytest.raises(TorrelqueValueError, match=r'only a redis\+sentinel:// URL'):
        connect('redis://h', sentinel_password='hidden')
