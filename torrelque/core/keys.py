"""Names of a queue's keys and channels. The first seven are the published ones of 0.9."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from torrelque.core.protocol import Script
from torrelque.errors import TorrelqueValueError

__all__ = ('LOGICAL_NAMES', 'SHARD_NAMES', 'Keys', 'shard_name', 'shard_of_name', 'tagged', 'untagged')

LOGICAL_NAMES: Mapping[str, str] = MappingProxyType(
    {
        name: name
        for name in (
            'pending', 'dequeueing', 'undequeued', 'working', 'delayed', 'tasks', 'task',
            'wake', 'timer', 'lane', 'epoch', 'rejected', 'counters', 'missing',
        )
    }
)  # fmt: skip
"""Logical name -> key, before the queue's name is put in front."""


SHARD_NAMES: Mapping[str, str] = MappingProxyType({'bell': 'bell', 'ring': 'ring'})
"""The same for what only the shards of a queue have."""


_SHARD = re.compile(r'\{(.+):(\d+)\}', re.DOTALL)


def shard_name(queue: str, shard: int) -> str:
    """What the keys of one shard begin with: on a cluster each is in a slot of its own."""
    return f'{{{queue}:{shard}}}'


def shard_of_name(name: str) -> tuple[str, int] | None:
    """The queue and the number of the shard that may be meant by what a key begins with."""
    match = _SHARD.fullmatch(name)
    return match and (match[1], int(match[2]))


class Keys:
    """The keys of one queue, or of a shard of one, encoded. ``names`` maps each logical name to its full key."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._encoded = {logical: key.encode() for logical, key in names.items()}
        self._of_script: dict[str, tuple[bytes, ...]] = {}

    @classmethod
    def of_queue(cls, queue: str) -> Keys:
        """The keys of a queue that renames none of them."""
        return cls({logical: f'{queue}:{key}' for logical, key in {**LOGICAL_NAMES, **SHARD_NAMES}.items()})

    def __getitem__(self, logical: str) -> bytes:
        return self._encoded[logical]

    def of(self, script: Script) -> tuple[bytes, ...]:
        """The keys that a script declares, in its order."""
        try:
            return self._of_script[script.sha]
        except KeyError:
            keys = self._of_script[script.sha] = tuple(self._encoded[logical] for logical in script.keys)
            return keys

    def state(self, task_id: str) -> bytes:
        """The hash that holds a task's state; also the channel of its transitions."""
        return self.state_of(task_id.encode())

    def state_of(self, task_id: bytes) -> bytes:
        """The same for an encoded id."""
        return b'%b:%b' % (self._encoded['task'], task_id)

    def ids_in(self, keys: Iterable[bytes]) -> list[str]:
        """The ids whose states are among some keys."""
        prefix = self.state('')
        return [key[len(prefix) :].decode(errors='replace') for key in keys if key.startswith(prefix)]


def tagged(queue: str) -> str:
    """A queue's name with a hash tag, by which a cluster keeps all keys that begin with it in one slot.

    A name that has one stays as it is. Raises TorrelqueValueError for one that cannot be given any.
    """
    _, opening, rest = queue.partition('{')
    tag, closing, _ = rest.partition('}')
    if opening and closing and tag:
        return queue
    if queue.startswith('}'):
        raise TorrelqueValueError(f"queue: on a cluster a name must not begin with '}}', got {queue!r}")
    return f'{{{queue}}}'


def untagged(name: str) -> str:
    """The plain name that `tagged` gave a hash tag."""
    inner = name[1:-1]
    return inner if inner and tagged(inner) == name else name
