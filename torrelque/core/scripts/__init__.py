"""The server's side of the protocol: one verb per file, over a shared prelude.

The header of each file lists its keys (``-- KEYS:``). The loader declares a
local variable for each, so header and code cannot disagree. A server creates
every function of a script again with each call, so a script gets only the parts
of the prelude that it uses. Parts that only a branch between ``-- rarely`` and
``-- end`` uses are defined in that branch. Comments are stripped.
"""

from __future__ import annotations

import re
from importlib import resources

from torrelque.core.protocol import Script

__all__ = ('SHARD_VERBS', 'VERBS', 'ScriptSet', 'load')

VERBS = (
    'mint', 'enqueue', 'claim', 'release', 'requeue', 'reject', 'giveback', 'extend', 'progress', 'settle', 'tick',
    'sweep', 'undequeue', 'cancel', 'redrive', 'purge', 'stats', 'page', 'inspect', 'repair', 'erase', 'wipe', 'drop',
    'announce', 'workers', 'flow', 'regulate', 'groups', 'schedule',
)  # fmt: skip

SHARD_VERBS = ('survey', 'layout', 'clear')
"""The verbs that only queues with shards have."""

ScriptSet = dict[str, Script]
"""The scripts by the name of their verb."""


UNDECLARED = '--!df flags=allow-undeclared-keys\n'
"""Permits scripts on Dragonfly to use keys that they do not declare, such as a task's state. A comment elsewhere."""

PUBLISH = "redis.pcall('PUBLISH', "

RARE = re.compile(r'^ *-- rarely\n(.*?)^ *-- end\n', re.MULTILINE | re.DOTALL)
"""A branch that is rarely taken. The functions that only it uses are created there."""


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding='utf-8')


def _prelude() -> str:
    return re.sub(r'^-- include (\w+)$', lambda line: _read(f'{line[1]}.lua'), _read('prelude.lua'), flags=re.MULTILINE)


def _declared_keys(source: str) -> tuple[str, ...]:
    (line,) = (line for line in source.splitlines() if line.startswith('-- KEYS: '))
    return tuple(line.removeprefix('-- KEYS: ').split())


class _Shared:
    """The definitions of the prelude. If a name is defined twice, the last definition counts."""

    def __init__(self, source: str) -> None:
        self._definitions = re.split(r'^(?=local )', source, flags=re.MULTILINE)[1:]
        names = [_words(re.split(r'=|\(|--', _code(each))[0]) for each in self._definitions]
        last = {name: at for at, defined in enumerate(names) for name in defined}
        self._names = [{name for name in defined if last[name] == at} for at, defined in enumerate(names)]

    def with_used(self, source: str) -> str:
        """Return a script with the definitions that it needs, directly or indirectly.

        Definitions that only a rare branch needs are added to that branch, except variables, which keep their value
        for the whole call.
        """
        kept = {at for at, each in enumerate(self._definitions) if re.match(r'local \w+( --.*)?\n', each)}
        common = self._needed(source) | (self._needed(source, rare=True) & kept)
        return self._written(common, common) + self._expanded(source, common)

    def _needed(self, source: str, *, rare: bool = False) -> set[int]:
        needed, wanted = set[int](), self._wanted(source, rare=rare)
        while more := {at for at, names in enumerate(self._names) if at not in needed and wanted.intersection(names)}:
            needed |= more
            wanted = set().union(*(self._wanted(self._definitions[at], rare=rare) for at in more))
        return needed

    @staticmethod
    def _wanted(source: str, *, rare: bool) -> set[str]:
        return _words(re.sub('--.*', '', _code(source if rare else RARE.sub('', source))))

    def _written(self, needed: set[int], there: set[int]) -> str:
        return ''.join(self._expanded(self._definitions[at], there) for at in sorted(needed))

    def _expanded(self, source: str, there: set[int]) -> str:
        """Add the definitions that rare branches need in addition."""

        def expand(branch: re.Match[str]) -> str:
            needed = self._needed(branch[1]) - there
            return self._written(needed, there | needed) + self._expanded(branch[1], there | needed)

        return _code(RARE.sub(expand, source))


def _code(source: str) -> str:
    """Strip comments and indentation, because pipelines send the source."""
    lines = (re.sub(r'(^|\s)--( .*|$)', '', line).strip() for line in source.splitlines())
    return ''.join(f'{line}\n' for line in lines if line)


def _by_shard(source: str) -> str:
    """Have a script publish with the function in cluster.lua."""
    return source.replace(PUBLISH, 'publish(')


def _words(source: str) -> set[str]:
    """Return the names in code without comments."""
    return set(re.findall(r'\b[A-Za-z_]\w*', re.sub(r"'[^']*'", '', source))) - {'local', 'function'}


def load(server: str | None = None, *, on_cluster: bool = False, sharded: bool = False) -> ScriptSet:
    """Load all scripts.

    Args:
        server: Replaces server.lua, which provides the time and expiry. Tests pass their own clock.
        on_cluster: Whether they run on a cluster.
        sharded: Whether the queue has shards.

    Returns:
        The scripts by name.
    """
    shared = server or _read('server.lua')
    if on_cluster:
        shared += _read('cluster.lua') + _by_shard(_prelude())
    else:
        shared += _prelude()
    if sharded:
        shared += _read('bells.lua')
    definitions, scripts = _Shared(shared), {}
    for verb in VERBS + SHARD_VERBS if sharded else VERBS:
        source = _by_shard(_read(f'{verb}.lua')) if on_cluster else _read(f'{verb}.lua')
        keys = _declared_keys(source)
        code = definitions.with_used(source)
        if sharded and 'local function summon' in code:
            keys += ('bell',)
        values = ', '.join(f'KEYS[{number}]' for number in range(1, len(keys) + 1))
        code = f'{UNDECLARED}local {", ".join(keys)} = {values}\n{code}'
        scripts[verb] = Script(verb, code, keys)
    return scripts
