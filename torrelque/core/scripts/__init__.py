"""The server's side of the protocol: one verb a file, on one shared prelude.

Each file's header names its keys (``-- KEYS:``); the loader declares a local of
that name for each, so header and code cannot disagree.
"""

from __future__ import annotations

from importlib import resources

from torrelque.core.protocol import Script

__all__ = ('VERBS', 'ScriptSet', 'load')

VERBS = (
    'mint', 'enqueue', 'claim', 'release', 'requeue', 'reject', 'giveback', 'extend', 'settle', 'tick', 'sweep',
    'undequeue', 'cancel', 'redrive', 'purge', 'stats', 'page', 'inspect', 'mend',
)  # fmt: skip

ScriptSet = dict[str, Script]
"""The scripts by the name of their verb."""


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding='utf-8')


def _declared_keys(source: str) -> tuple[str, ...]:
    (line,) = (line for line in source.splitlines() if line.startswith('-- KEYS: '))
    return tuple(line.removeprefix('-- KEYS: ').split())


def load(server: str | None = None) -> ScriptSet:
    """All scripts. ``server`` replaces server.lua, where time and expiry come from; tests pass a clock of their own."""
    shared = (server or _read('server.lua')) + _read('prelude.lua')
    scripts = {}
    for verb in VERBS:
        source = _read(f'{verb}.lua')
        keys = _declared_keys(source)
        values = ', '.join(f'KEYS[{number}]' for number in range(1, len(keys) + 1))
        scripts[verb] = Script(verb, f'local {", ".join(keys)} = {values}\n{shared}{source}', keys)
    return scripts
