"""Makes measurements: each system in a process of its own environment, beside a server of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.environments import ENVIRONMENTS, FOLDER, ROOT, Environment, UnavailableError
from benchmarks.metering import ServerInfo
from benchmarks.plan import DEPTH_ROWS, Step, Variant
from tests import servers

BOOT = """
import sys; sys.path.append({root!r}); import benchmarks
sys.path[:0] = {first!r}
from benchmarks.measure import main; main()
"""
"""The benchmarks are those of this folder; the library is what the environment has installed, or what comes first."""

LONGEST = 300.0
USUAL = 150.0
"""Seconds that a measurement may take, with a million tasks and without."""


class FailedError(Exception):
    """A measurement failed; the message is what its process wrote to stderr."""


class Subject:
    """One row of one system, ready to be measured again and again; to be entered.

    Args:
        variant: The system, its client and its event loop.
        row: What to measure.
        settings: How much of it.
        library: Folder with the revision of the library to measure instead of this one.

    Attributes:
        build: Name and version of the server, and what it was built with.

    """

    def __init__(self, variant: Variant, row: str, settings: Mapping[str, float], library: Path | None = None) -> None:
        self._environment = ENVIRONMENTS[variant.system]
        self._server = variant.server
        self._words = [variant.system, variant.client, variant.loop, row]
        self._settings = json.dumps(dict(settings))
        if self._environment.revision is not None:
            library = self._environment.folder
        self._first = [] if library is None else [str(library)]
        self._limit = LONGEST if row in DEPTH_ROWS else USUAL

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def measure(self) -> dict[str, Any]:
        """Measure once. Raises FailedError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self._limit, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write('\n')
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ''
        finally:
            timer.cancel()
        if line:
            said: dict[str, Any] = json.loads(line)
            return said
        self._process.wait()
        self._said.seek(0)
        raise FailedError(self._said.read().strip() or f'no result within {self._limit} s')

    def _start(self) -> None:
        server = servers.start(self._server)
        self._stack.callback(server.close)
        with ServerInfo(server.url) as info:
            self.build = info.build()
        self._said = self._stack.enter_context(tempfile.TemporaryFile('w+'))  # noqa: SIM115 - it is one
        self._process = self._stack.enter_context(
            subprocess.Popen(
                [*_tie(), *self._program(), *self._words, server.url, self._settings],
                cwd=self._environment.folder if self._environment.node else FOLDER,
                env={name: value for name, value in os.environ.items() if not name.startswith('PYTHON')},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        )
        self._stack.callback(self._process.kill)

    def _program(self) -> list[str]:
        if self._environment.node:
            return ['node', str(ROOT / f'benchmarks/systems/use_{self._environment.name}.mjs')]
        return [self._environment.python, '-P', '-c', BOOT.format(root=str(ROOT), first=self._first)]


class Runner:
    """Makes the steps of a plan; reports failures on stderr."""

    def __init__(self, settings: Mapping[str, float]) -> None:
        self._settings = settings
        self._available: dict[str, bool] = {}
        self.versions: dict[str, str] = {}
        self.builds: dict[str, str] = {}

    def run(self, step: Step) -> dict[str, Any] | None:
        """Return what was measured, or None if the system is not available here."""
        environment = ENVIRONMENTS[step.variant.system]
        if not self._has(environment, step.variant.server):
            return None
        entry = {
            'round': step.round,
            'row': step.row,
            'system': step.variant.system,
            'client': step.variant.client,
            'loop': step.variant.loop,
            'server': step.variant.server,
            'load': os.getloadavg()[0],
        }
        try:
            with Subject(step.variant, step.row, self._settings) as subject:
                said = subject.measure()
                self.builds[step.variant.server] = subject.build
        except FailedError as error:
            print(f'{step.row} {step.variant} FAILED:\n{str(error)[-3000:]}', file=sys.stderr)
            return entry | {'error': str(error).splitlines()[-1]}
        self.versions |= {
            f'{step.variant.system} {name}': version
            for name, version in said['versions'].items()
            if name in environment.named
        }
        result: dict[str, Any] = said['result']
        return entry | result

    def _has(self, environment: Environment, server: str) -> bool:
        return self._can(server, lambda: servers.find(server)) and self._can(environment.name, environment.make)

    def _can(self, name: str, make: Callable[[], object]) -> bool:
        if name not in self._available:
            FOLDER.mkdir(exist_ok=True)
            try:
                make()
            except (UnavailableError, servers.MissingServerError) as error:
                print(f'Without {name}: {error}', file=sys.stderr)
                self._available[name] = False
            else:
                self._available[name] = True
        return self._available[name]


def _tie() -> list[str]:
    """The kernel ends a measurement when the command ends, however that is."""
    setpriv = shutil.which('setpriv')
    return [] if setpriv is None else [setpriv, '--pdeathsig', 'KILL', '--']
