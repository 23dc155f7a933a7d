"""The fixtures themselves: a test on the wrong server, or on none, proves nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest
import sniffio

from tests.servers import SERVERS, Client, MissingServerError, Server, find, shared
from torrelque.core.protocol import Call, Reply, Script, blocking_drive
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError

FreshServer = Callable[..., Server]


def test_is_the_server_it_is_called(server: Server) -> None:
    info = server.info()
    version = info.get('valkey_version', info['redis_version'])
    assert version == server.version
    assert server.name == f'{info.get("server_name", "redis")}-{version.rpartition(".")[0]}'
    assert int(info['process_id']) == server.pid


def test_answers_on_both_addresses(server: Server) -> None:
    assert server.url == f'redis://127.0.0.1:{server.port}'
    assert server.unix_url == f'unix://{server.socket}'
    server.command('SET', 'key', 'value')
    with socket.create_connection(('127.0.0.1', server.port), timeout=10) as connection:
        connection.sendall(b'GET key\r\n')
        assert connection.recv(100) == b'$5\r\nvalue\r\n'


@pytest.mark.parametrize('attempt', [1, 2])
def test_is_empty_for_each_test(server: Server, attempt: int) -> None:
    assert server.command('DBSIZE') == 0
    server.command('SET', f'left by {attempt}', '1')


def test_is_started_once(server: Server) -> None:
    assert shared(server.name) is server


def test_a_killed_server_is_gone_and_comes_back(fresh_server: FreshServer) -> None:
    server = fresh_server()
    port, pid = server.port, server.pid
    server.command('SET', 'key', 'value')
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        server.command('PING')
    server.start()
    assert server.command('GET', 'key') is None
    assert server.port == port
    assert server.pid != pid


def test_a_restarted_server_keeps_what_it_was_told_to_keep(fresh_server: FreshServer) -> None:
    server = fresh_server('--appendonly', 'yes', '--appendfsync', 'always')
    server.command('SET', 'key', 'value')
    server.restart()
    assert server.command('GET', 'key') == b'value'


def test_a_fresh_server_takes_arguments_and_settings(fresh_server: FreshServer) -> None:
    server = fresh_server('--requirepass', 'secret', '--maxmemory', '50mb', name='redis-6.2')
    assert server.command('CONFIG', 'GET', 'maxmemory') == [b'maxmemory', b'52428800']
    server.config(maxmemory_policy='allkeys-lru')
    assert server.command('CONFIG', 'GET', 'maxmemory-policy') == [b'maxmemory-policy', b'allkeys-lru']
    assert server.url == f'redis://:secret@127.0.0.1:{server.port}'
    with closing(Client(server.socket)) as stranger, pytest.raises(TorrelqueReplyError, match='NOAUTH'):
        stranger.command('PING')


def test_the_client_raises_errors_and_executes_operations(server: Server) -> None:
    script = Script('echo', "return {ARGV[1], {err = 'OOPS no'}}", ())
    with server.client() as client:
        with pytest.raises(TorrelqueReplyError, match='unknown command') as caught:
            client.command('NOSUCH')
        assert caught.value.code == 'ERR'
        call: Call[Reply] = Call(script, args=('word',))
        reply = blocking_drive(iter(call), client.execute)
        assert isinstance(reply, list)
        assert reply[0] == b'word'
        assert isinstance(reply[1], TorrelqueReplyError)
        assert reply[1].code == 'OOPS'


def test_the_client_tells_a_broken_connection(fresh_server: FreshServer) -> None:
    server = fresh_server()
    with server.client() as client:
        server.kill()
        with pytest.raises(TorrelqueConnectionError):
            client.command('PING')


def test_a_missing_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise MissingServerError('pip install it')

    monkeypatch.setitem(SERVERS, 'nosuch-1.0', missing)
    with pytest.raises(MissingServerError, match=r'nosuch-1\.0 is missing: pip install it'):
        find('nosuch-1.0')


def test_another_version_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVERS, 'redis-1.0', SERVERS['valkey-9.1'])
    with pytest.raises(MissingServerError, match=r'redis-1\.0 is missing: \S+ is 9\.1'):
        find('redis-1.0')


@pytest.mark.anyio
async def test_runs_on_the_event_loop_it_is_called(request: pytest.FixtureRequest) -> None:
    loop = request.node.callspec.id
    assert sniffio.current_async_library() == loop.partition('+')[0]
    if loop != 'trio':
        running = type(__import__('asyncio').get_running_loop()).__module__
        assert running.partition('.')[0] == ('uvloop' if '+' in loop else 'asyncio')
    await anyio.lowlevel.checkpoint()


SKIPPING = """
import pytest
def test_skips(): pytest.skip('no time')
@pytest.mark.skip
def test_marked(): pass
@pytest.mark.xfail(strict=True)
def test_fails(): assert False
def test_passes(): pass
"""


@pytest.mark.parametrize(
    ('option', 'summary'), [('--no-skips', '2 failed, 1 passed, 1 error'), (None, '1 passed, 2 skipped')]
)
def test_no_skips_turns_skips_into_failures(tmp_path: Path, option: str | None, summary: str) -> None:
    (tmp_path / 'conftest.py').write_text('from tests.conftest import *\n')
    (tmp_path / 'test_skipping.py').write_text(SKIPPING)
    assert summary in run_pytest(tmp_path, option)


@pytest.mark.parametrize(('option', 'summary'), [('--no-skips', '1 error'), (None, '1 skipped')])
def test_no_skips_sees_skipped_modules(tmp_path: Path, option: str | None, summary: str) -> None:
    (tmp_path / 'conftest.py').write_text('from tests.conftest import *\n')
    (tmp_path / 'test_skipping.py').write_text("import pytest\npytest.importorskip('no_such_module')\n")
    assert summary in run_pytest(tmp_path, option)


def run_pytest(folder: Path, option: str | None) -> str:
    command = [sys.executable, '-m', 'pytest', '-p', 'no:valkey', '-c', '/dev/null', '--rootdir', str(folder)]
    run = subprocess.run(
        [*command, *([option] if option else []), str(folder)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout
