"""Running the command, in this process where that will do: a Python of its own takes half a second to start."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from tests.servers import Server
from torrelque import Torrelque, connect
from torrelque.cli import main


class Ended(NamedTuple):
    """What a run of the command came to."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """The output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """The command and a queue to use it on."""

    def __init__(self, url: str, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.url = url
        self.on_terminal = False
        """Whether its standard input and output say that they are one, of 80 columns."""
        self._capture = capture
        self._patch = patch
        patch.setenv('TORRELQUE_URL', url)
        patch.delenv('TORRELQUE_QUEUE', raising=False)
        for name, value in (('COLUMNS', '80'), ('TERM', 'xterm-256color')):
            patch.setenv(name, value)
        patch.delenv('NO_COLOR', raising=False)

    def __call__(self, *arguments: str, stdin: str | bytes = '') -> Ended:
        """Run it in this process, with ``TORRELQUE_URL`` set, and its standard input from memory."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        self._patch.setattr(sys, 'argv', ['torrelque', *arguments])
        stream = io.TextIOWrapper(io.BytesIO(data), encoding='utf-8')
        stream.isatty = lambda: self.on_terminal  # type: ignore[method-assign]  # of this one only
        self._patch.setattr(sys, 'stdin', stream)
        self._patch.setattr(sys.stdout, 'isatty', lambda: self.on_terminal)
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capture.readouterr()
        return Ended(ended.value.code if isinstance(ended.value.code, int) else -1, out, err)

    def assert_refused(self, arguments: list[str], status: int, said: str, stdin: str = '') -> None:
        """It ends with this status, no output, and one line on standard error that matches."""
        ended = self(*arguments, stdin=stdin)
        assert (ended.status, ended.out) == (status, '')
        assert re.fullmatch(rf'torrelque: {said}\n', ended.err), ended.err

    def do(self, function: Callable[[Torrelque], Any], queue: str = 'trq', **options: Any) -> Any:  # noqa: ANN401 - what it returns
        """Do something to a queue with the library."""

        async def use() -> Any:  # noqa: ANN401
            async with connect(self.url) as client, Torrelque(client, queue=queue, **options) as opened:
                return await function(opened)

        return anyio.run(use)


def rows(text: str) -> list[list[str]]:
    """The rows of a table below its line, split at white space."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if set(line.strip()) == {'─'})
    return [line.split() for line in lines[start + 1 :]]


@contextmanager
def started(*arguments: str, url: str = '', folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, with pipes; it is killed at the end."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name('torrelque'), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, 'TORRELQUE_URL': url},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):  # of what it was not there to read
                stream.close()


def put_foreign_keys(server: Server) -> list[str]:
    """Keys of other programs that look like a queue's at first sight; their names."""
    server.command('SET', 'visits:counters', '5')
    server.command('RPUSH', 'list:counters', 'a')
    server.command('HSET', 'pages:counters', 'home', '17')
    server.command('HSET', 'split:counters', 'shards', 'many', 'generation', 'first')
    server.command('HSET', '{split}:counters', 'shards', '0', 'intended', 'x')
    server.command('HSET', ':counters', 'enqueued', '1')
    return ['visits', 'list', 'pages', 'split', '{split}', '']
