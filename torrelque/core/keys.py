"""The names of a queue's keys and channels. The first seven are those that 0.9 published."""

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
            'wake', 'timer', 'lane', 'epoch', 'rejected', 'counters', 'missing', 'workers', 'schedules',
            'schedule', 'cancel', 'groups',
        )
    }
)  # fmt: skip
"""Maps logical names to keys, without the prefix of the queue's name. ``cancel`` is only a channel."""


SHARD_NAMES: Mapping[str, str] = MappingProxyType({'bell': 'bell', 'ring': 'ring'})
"""The same for keys that only shards have."""


_SHARD = re.compile(r'\{(.+):(\d+)\}', re.DOTALL)


def shard_name(queue: str, shard: int) -> str:
    """Return the prefix of the keys of one shard. Its hash tag puts each shard into its own slot on a cluster."""
    return f'{{{queue}:{shard}}}'


def shard_of_name(name: str) -> tuple[str, int] | None:
    """Return the queue and the number of a shard from the prefix of its keys; None if no shard has this prefix."""
    match = _SHARD.fullmatch(name)
    return match and (match[1], int(match[2]))


class Keys:
    """The keys of a queue or of one of its shards, as bytes.

    Args:
        names: Maps each logical name to its full key.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._encoded = {logical: key.encode() for logical, key in names.items()}
        self._of_script: dict[str, tuple[bytes, ...]] = {}

    @classmethod
    def of_queue(cls, queue: str) -> Keys:
        """Return the keys of a queue that renames none of them."""
        return cls({logical: f'{queue}:{key}' for logical, key in {**LOGICAL_NAMES, **SHARD_NAMES}.items()})

    def __getitem__(self, logical: str) -> bytes:
        return self._encoded[logical]

    def of(self, script: Script) -> tuple[bytes, ...]:
        """Return the keys that a script declares, in the script's order."""
        try:
            return self._of_script[script.sha]
        except KeyError:
            keys = self._of_script[script.sha] = tuple(self._encoded[logical] for logical in script.keys)
            return keys

    def state(self, task_id: str) -> bytes:
        """Return the key of the hash with a task's state, which is also the channel of its transitions."""
        return self.state_of(task_id.encode())

    def state_of(self, task_id: bytes) -> bytes:
        """Return the same for an id in bytes."""
        return b'%b:%b' % (self._encoded['task'], task_id)

    def of_groups(self, what: str) -> bytes:
        """Return a key with records of groups: what they are is part of its name."""
        return b'%b:%b' % (self._encoded['groups'], what.encode())

    def ids_in(self, keys: Iterable[bytes]) -> list[str]:
        """Return the ids of the tasks whose states are among these keys."""
        prefix = self.state('')
        return [key[len(prefix) :].decode(errors='replace') for key in keys if key.startswith(prefix)]


def tagged(queue: str) -> str:
    """Add a hash tag to a queue's name, so that a cluster keeps all of the queue's keys in one slot.

    A name that has a hash tag is returned unchanged.

    Raises:
        TorrelqueValueError: The name begins with a closing brace, so a hash tag would not work.
    """
    _, opening, rest = queue.partition('{')
    tag, closing, _ = rest.partition('}')
    if opening and closing and tag:
        return queue
    if queue.startswith('}'):
        raise TorrelqueValueError(f"queue: on a cluster a name must not begin with '}}', got {queue!r}")
    return f'{{{queue}}}'


def untagged(name: str) -> str:
    """Return the name without the hash tag that `tagged` added."""
    inner = name[1:-1]
    return inner if inner and tagged(inner) == name else name
