"""`serve`: a server in the foreground."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.support import Command, started
from torrelque.cli.commands import serve as serving
from torrelque.cli.settings import Settings
from torrelque.embedded import EmbeddedServer

PATIENCE = 20.0


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[signal.Signals], None]]:
    """Has this process get a signal a moment after the server was introduced and has got a key."""
    timers: list[threading.Timer] = []

    def signal_soon(number: signal.Signals) -> None:
        introduce = serving._introduce

        def introduce_and_use(settings: Settings, server: EmbeddedServer, folder: Path | None, unix: Path) -> None:
            introduce(settings, server, folder, unix)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(unix))
                connection.sendall(b'SET key value\r\n')
                assert connection.recv(10) == b'+OK\r\n'
            timers.append(threading.Timer(0.05, os.kill, (os.getpid(), number)))
            timers[-1].start()

        monkeypatch.setattr(serving, '_introduce', introduce_and_use)

    yield signal_soon
    for timer in timers:
        timer.join()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_keeps_the_data(
    command: Command, tmp_path: Path, signalled: Callable[[signal.Signals], None], number: signal.Signals
) -> None:
    path, data = tmp_path / 's', tmp_path / 'data'
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    signalled(number)
    ended = command('serve', str(data), '--socket', str(path))
    assert (ended.status, ended.err) == (0, '')
    assert ended.out.startswith(f'Valkey listens at unix://{path}\nData is kept in {data}\n')
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert not path.exists(), 'it ended in good order'
    assert 'value' in ''.join(file.read_text() for file in data.glob('appendonlydir/*.aof'))


def test_a_port_and_a_socket_for_programs(
    command: Command, tmp_path: Path, signalled: Callable[[signal.Signals], None]
) -> None:
    path = tmp_path / 's'
    signalled(signal.SIGTERM)
    (fields,) = command('serve', '--port', '0', '--socket', str(path), '--json').lines
    assert set(fields) == {'urls', 'pid', 'folder'}
    assert fields['folder'] is None
    assert fields['urls'][0].startswith('redis://127.0.0.1:')
    assert fields['urls'][1] == f'unix://{path}'


def test_what_it_says_is_enough_to_use_it(command: Command) -> None:
    with started('serve', '--port', '0') as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(4)]
        assert said[1] == 'Data is lost when the server stops.\n'
        url = said[2].strip().removeprefix('In other terminals: export TORRELQUE_URL=')
        assert command('enqueue', '1', '--url', url).status == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    command.assert_refused(['stats', '--url', url], 3, '.*Is the server running.*')


def test_a_server_that_ends_by_itself(command: Command) -> None:
    with started('serve', '--port', '0', '--json') as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        os.kill(int(line.split('"pid": ')[1].partition(',')[0]), signal.SIGKILL)
        assert process.wait(PATIENCE) == 3
        assert process.stderr.read() == 'torrelque: the server stopped unexpectedly\n'


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken(command: Command) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        said = f'port {port} is not available: Address already in use; choose another with --port'
        command.assert_refused(['serve', '--port', str(port)], 2, said)


def test_paths_that_cannot_be_had(command: Command, tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    command.assert_refused(
        ['serve', '--socket', str(tmp_path / 'file')], 1, '.*/file already exists and is not a socket'
    )
    command.assert_refused(['serve', '--socket', 'x' * 200], 2, 'socket_path must have at most 103 bytes, not .*')
    command.assert_refused(['serve', str(tmp_path / 'file'), '--socket', str(tmp_path / 's')], 2, '.*/file.*')
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / 'taken'))
        taken.listen()
        said = '.*/taken is in use by another server'
        command.assert_refused(['serve', '--socket', str(tmp_path / 'taken')], 1, f'the socket {said}')
