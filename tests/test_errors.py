"""The one table of transient replies: each code in each form, as each client passes it on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from coredis.parser import Parser
from redis._parsers.base import BaseParser

from tests.servers import Server
from tests.transient import LASTING, TRANSIENT, UNAVAILABLE
from torrelque import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTimeoutError,
    is_transient,
)
from torrelque.errors import is_unavailable, parse_code
from torrelque.transports import coredis, redis_py_errors
from torrelque.transports.cluster.router import redirected
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error


def as_redis_py(text: str) -> TorrelqueReplyError:
    return redis_py_errors.as_reply_error(BaseParser.parse_error(text))  # type: ignore[no-untyped-call]


def as_coredis(text: str) -> TorrelqueReplyError:
    parser = Parser()
    parser.feed(f'-{text}\r\n'.encode())
    parsed = parser.parse()
    assert isinstance(parsed, tuple)
    error = parsed[1]
    assert isinstance(error, Exception)
    return coredis.as_reply_error(error)


as_client = pytest.mark.parametrize(
    'client', [TorrelqueReplyError, as_redis_py, as_coredis], ids=['native', 'redis-py', 'coredis']
)
Client = Callable[[str], TorrelqueReplyError]


@as_client
@pytest.mark.parametrize('text', TRANSIENT)
def test_transient(text: str, client: Client) -> None:
    error = client(text)
    assert is_transient(error)
    assert is_unavailable(error) == (text in UNAVAILABLE)


@as_client
@pytest.mark.parametrize('text', LASTING)
def test_lasting(text: str, client: Client) -> None:
    assert not is_transient(client(text))
    assert not is_unavailable(client(text))


def test_a_code_that_a_client_gives_as_err_is_read_all_the_same() -> None:
    error = TorrelqueReplyError('Error running script (call to f_1): @user_script: 8: -READONLY a replica', 'ERR')
    assert (error.code, is_transient(error)) == ('READONLY', True)


@pytest.mark.parametrize(
    ('error', 'transient'),
    [
        (TorrelqueConnectionError('cut'), True),
        (TorrelqueResponseTimeout('late'), True),
        (TorrelqueHandshakeError('not trusted'), False),
        (TorrelqueRefusedError('WRONGPASS no'), False),
        (TorrelqueRefusedError('READONLY', 'READONLY'), False),
        (dual_error(TorrelqueAnsweredConnectionError, ValueError('loading'), code='LOADING'), True),
        (dual_error(TorrelqueAnsweredConnectionError, ValueError('who?'), code='NOAUTH'), False),
        (TorrelqueTimeoutError('over'), False),
        (TorrelqueError('LOADING'), False),
        (OSError('reset'), False),
        (b'LOADING', False),
        (None, False),
    ],
)
def test_errors_that_are_no_replies(error: object, transient: bool) -> None:
    assert is_transient(error) == is_unavailable(error) == transient


@as_client
@pytest.mark.parametrize('text', UNAVAILABLE)
def test_routers_follow_what_leads_elsewhere_and_wait_for_what_is_on_its_way(text: str, client: Client) -> None:
    code = client(text).code
    redirection = redirected(client(text))
    assert (redirection and redirection.code) == (code if code in ('MOVED', 'ASK', 'TRYAGAIN', 'CLUSTERDOWN') else None)
    assert ('local key' in text or 'not served' in text or 'cluster is down' in text) <= (redirection is not None)


def test_an_address_inside_a_message_leads_nowhere() -> None:
    assert parse_code('ERR user_script:3: MOVED 3999 127.0.0.1:6381 script: 1, on @user_script:1.') == 'TRYAGAIN'


@pytest.mark.parametrize(
    ('script', 'code'),
    [
        ("return redis.call('LLEN', 'text')", 'WRONGTYPE'),
        ("return redis.pcall('LLEN', 'text')", 'WRONGTYPE'),
        ("error(redis.pcall('LLEN', 'text').err)", 'WRONGTYPE'),
        ("return redis.error_reply('MINE of my own')", 'MINE'),
        ("return redis.call('SETT', 'text', 1)", 'ERR'),
        ("return redis.call('SET')", 'ERR'),
        ('return nothing', 'ERR'),
        ('return unpack({}, 1, 1e7)', 'ERR'),
    ],
)
def test_codes_of_errors_in_scripts(server: Server, script: str, code: str) -> None:
    server.command('SET', 'text', 'x')
    with pytest.raises(TorrelqueReplyError) as caught:
        server.command('EVAL', script, 0)
    assert caught.value.code == code
