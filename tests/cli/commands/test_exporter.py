"""`torrelque exporter`, as a user runs it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.exporter.test_metrics import ENOUGH, fetch, fill, samples
from tests.cli.support import Command


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_stopped(command: Command, number: signal.Signals, status: int) -> None:
    command.do(fill, 'mail')
    with subprocess.Popen(
        [Path(sys.executable).with_name('torrelque'), 'exporter', '--port', '0', '--queue', 'mail'],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'TORRELQUE_URL': command.url},
    ) as process:
        try:
            assert process.stderr is not None
            url = process.stderr.readline().removeprefix('Metrics are at ').strip()
            assert samples(fetch(url).text)['tasks', 'mail', 'rejected'] == 1
            process.send_signal(number)
            assert process.wait(ENOUGH) == status
        finally:
            process.kill()


def test_it_says_which_extra_it_needs(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'prometheus_client' else find(name))
    advice = 'Install with: pip install "torrelque[exporter]"'
    assert command('exporter') == (2, '', f'torrelque: not installed: prometheus_client. {advice}\n')


def test_what_it_cannot_do_is_one_line(command: Command) -> None:
    with subprocess.Popen([sys.executable, '-c', LISTEN], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = other.stdout.readline().decode().strip()
        refused = command('exporter', '--port', port)
        assert other.stdin is not None
        other.stdin.close()
    assert (refused.status, refused.err) == (
        2, f'torrelque: cannot listen on 127.0.0.1, port {port}: Address already in use\n',
    )  # fmt: skip
    assert command('exporter', '--queue', '').err == 'torrelque: queue must not be empty\n'
    assert command('exporter', '--url', 'http://localhost').status == 2
    assert command('exporter', '--port', '70000').status == 2


LISTEN = """
import socket
with socket.create_server(('127.0.0.1', 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    input()
"""
