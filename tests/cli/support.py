"""Running the command, in this process where that will do: a Python of its own takes half a second to start."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import anyio
import pytest

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
        self._capture = capture
        self._patch = patch
        patch.setenv('TORRELQUE_URL', url)
        patch.delenv('TORRELQUE_QUEUE', raising=False)
        patch.setenv('COLUMNS', '80')

    def __call__(self, *arguments: str, stdin: str | bytes = '') -> Ended:
        """Run it in this process, with ``TORRELQUE_URL`` set, and its standard input from memory."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        self._patch.setattr(sys, 'argv', ['torrelque', *arguments])
        self._patch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capture.readouterr()
        return Ended(ended.value.code if isinstance(ended.value.code, int) else -1, out, err)

    def do(self, function: Callable[[Torrelque], Any], queue: str = 'trq') -> Any:  # noqa: ANN401 - what it returns
        """Do something to a queue with the library."""

        async def use() -> Any:  # noqa: ANN401 - as above
            async with connect(self.url) as client, Torrelque(client, queue=queue) as opened:
                return await function(opened)

        return anyio.run(use)
