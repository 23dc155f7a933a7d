"""What the command needs to connect, and that it never prints a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.support import Command
from tests.servers import Server
from tests.transports.native.test_dialer import make_certificate

SERVER = 3
USAGE = 2


def test_client_certificates(
    command: Command, fresh_server: Callable[..., Server], tmp_path: Path, free_tcp_port: int
) -> None:
    cert, key = make_certificate(tmp_path, 'server')
    files = '--tls-cert-file', cert, '--tls-key-file', key, '--tls-ca-cert-file', cert
    fresh_server('--tls-port', str(free_tcp_port), *files, name='redis-7.0')
    url = f'rediss://127.0.0.1:{free_tcp_port}?ssl_ca_certs={cert}'
    command.assert_refused(['queues', '--url', url], SERVER, 'TLS handshake with .* certificate required.*')
    ended = command('queues', '--url', f'{url}&ssl_certfile={cert}&ssl_keyfile={key}')
    assert (ended.status, ended.err) == (0, 'no queues\n')
    command.assert_refused(
        ['queues', '--url', f'{url}&ssl_certfile={tmp_path}/none'], USAGE, 'url: cannot use the certificates in .*'
    )


@pytest.mark.parametrize(
    'url', ['redis:/me:hidden@h', 'redis://h?password=hidden', 'redis://me:hidden', 'redis//:hidden@h/0', 'me:hidden']
)
@pytest.mark.parametrize('debug', [False, True])
def test_a_url_with_a_mistake_is_shown_without_its_password(
    command: Command, monkeypatch: pytest.MonkeyPatch, url: str, *, debug: bool
) -> None:
    if debug:
        monkeypatch.setenv('TORRELQUE_DEBUG', '1')
        with pytest.raises(Exception, match='url ') as caught:
            command('queues', '--url', url)
        assert 'hidden' not in str(caught.value)
    else:
        ended = command('queues', '--url', url)
        assert ended.status == USAGE
        assert 'hidden' not in ended.out + ended.err
