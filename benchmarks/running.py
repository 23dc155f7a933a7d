"""Makes measurements: for each a server of its own, and a process in the system's environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.environments import ENVIRONMENTS, FOLDER, ROOT, Environment, UnavailableError
from benchmarks.plan import DEPTH_ROWS, Step, Variant
from torrelque.embedded import EmbeddedServer

BOOT = f'import sys; sys.path.append({str(ROOT)!r}); from benchmarks.measure import main; main()'
"""Appended, so that what an environment has installed comes first: there, torrelque is not the one of this folder."""

LONGEST = 300.0
USUAL = 150.0
"""Seconds that a measurement may take, with a million tasks and without."""


class Runner:
    """Makes measurements; says on stderr what it does."""

    def __init__(self, settings: Mapping[str, float]) -> None:
        self._settings = settings
        self._missing: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def run(self, step: Step) -> dict[str, Any] | None:
        """What was measured; None if it cannot be here."""
        environment = ENVIRONMENTS[step.variant.system]
        if not self._has(environment):
            return None
        entry = {
            'round': step.round,
            'row': step.row,
            'system': step.variant.system,
            'client': step.variant.client,
            'loop': step.variant.loop,
            'load': os.getloadavg()[0],
        }
        with EmbeddedServer(port=0) as server:
            command = [*_tie(), *self._command(environment, step.variant, step.row, server.url)]
            try:
                output = subprocess.run(
                    command,
                    cwd=environment.folder if environment.node else FOLDER,
                    env={name: value for name, value in os.environ.items() if not name.startswith('PYTHON')},
                    capture_output=True,
                    text=True,
                    timeout=LONGEST if step.row in DEPTH_ROWS else USUAL,
                    check=True,
                ).stdout
            except subprocess.CalledProcessError as error:
                return entry | _failed(step, error.stderr)
            except subprocess.TimeoutExpired as error:
                return entry | _failed(step, str(error))
        said: dict[str, Any] = json.loads(output.splitlines()[-1])
        self.versions |= {
            f'{step.variant.system} {name}': version
            for name, version in said['versions'].items()
            if name in environment.named
        }
        result: dict[str, Any] = said['result']
        return entry | result

    def _command(self, environment: Environment, variant: Variant, row: str, url: str) -> list[str]:
        words = [variant.system, variant.client, variant.loop, row, url, json.dumps(dict(self._settings))]
        if environment.node:
            return ['node', str(ROOT / f'benchmarks/systems/use_{variant.system}.mjs'), *words]
        return [environment.python, '-P', '-c', BOOT, *words]

    def _has(self, environment: Environment) -> bool:
        if environment.name not in self._missing:
            FOLDER.mkdir(exist_ok=True)
            try:
                environment.make()
            except UnavailableError as error:
                print(f'Without {environment.name}: {error}', file=sys.stderr)
                self._missing[environment.name] = str(error)
            else:
                self._missing[environment.name] = ''
        return not self._missing[environment.name]


def _failed(step: Step, said: str) -> dict[str, str]:
    print(f'{step.row} {step.variant} FAILED:\n{said.strip()[-3000:]}', file=sys.stderr)
    return {'error': (said.strip().splitlines() or ['no output'])[-1]}


def _tie() -> list[str]:
    """The kernel ends a measurement when the command ends, however that is."""
    setpriv = shutil.which('setpriv')
    return [] if setpriv is None else [setpriv, '--pdeathsig', 'KILL', '--']
