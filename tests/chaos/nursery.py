"""The worker processes as the driver sees them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.chaos.crews import Spec

ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts workers by forking a parent that is ready; all of them end with this object, or with this process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._pids: dict[str, int] = {}

    def __enter__(self) -> Self:
        with self._log.open('wb') as log:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'tests.chaos.worker'],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # it ends its children by ending its group
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()

    @property
    def names(self) -> list[str]:
        """Those that were started and not ended."""
        return list(self._pids)

    def start(self, spec: Spec) -> None:
        self._pids[spec.name] = self._command('start', asdict(spec))

    def stop(self, name: str) -> None:
        self._command('send', self._pids[name], signal.SIGSTOP)

    def carry_on(self, name: str) -> None:
        self._command('send', self._pids[name], signal.SIGCONT)

    def kill(self, name: str) -> None:
        """SIGKILL, if it has not ended. Raises AssertionError if it had failed by itself."""
        self._command('send', self._pids[name], signal.SIGKILL)
        self.join(name)

    def join(self, name: str) -> None:
        """Wait for its end. Raises AssertionError if it failed by itself."""
        status = self._command('wait', self._pids.pop(name))
        assert status in (0, -signal.SIGKILL), f'{name} ended with {status}:\n{self._log.read_text()}'

    def kill_all(self) -> None:
        for name in self.names:
            self.kill(name)

    def _command(self, *words: object) -> Any:  # noqa: ANN401 - whatever the command answers
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(words) + '\n')
        stdin.flush()
        return json.loads(stdout.readline())
