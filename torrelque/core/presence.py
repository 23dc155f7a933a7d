"""Announcements of workers, which show the workers of a queue, and which of them holds a task.

The announcements of a queue are fields of one hash. Each contains the server's time when it was written, and is
ignored once it is `LIFETIME` seconds old.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from torrelque.core.keys import Keys
from torrelque.core.models import number_of
from torrelque.core.operations import PAGE
from torrelque.core.protocol import Call, Operation, Reply
from torrelque.core.scripts import ScriptSet

__all__ = ('LIFETIME', 'WorkerInfo', 'announce', 'list_workers', 'read_worker', 'retract', 'scan_workers')

LIFETIME = 30.0
"""Seconds for which a worker is listed after it was last seen."""


_KINDS = {'name': str, 'host': str, 'pid': int, 'concurrency': int, 'running': int, 'consumer': str}
"""The fields of an announcement, and their types."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, as it last announced itself. Times are Unix times on the server's clock."""

    id: str
    """Differs for each run of a worker."""
    name: str
    host: str
    pid: int
    since: float
    """When it began to work."""
    seen: float
    """When it last announced itself. Workers do so every 10 s, and are listed for 30 s."""
    concurrency: int
    """Maximum number of tasks that it handles at once."""
    running: int
    """Number of tasks that it was handling when it was last seen."""
    consumer: str
    """Identifies the queue object that the worker uses, as :attr:`TorrelqueTask.consumer` does."""


def announce(
    scripts: ScriptSet,
    keys: Keys,
    worker_id: str,
    age: float,
    *,
    name: str,
    host: str,
    pid: int,
    concurrency: int,
    running: int,
    consumer: str,
) -> Operation[None]:
    """Announce a worker that has run for ``age`` seconds. Safe to repeat."""
    said = {
        'name': name, 'host': host, 'pid': pid, 'concurrency': concurrency, 'running': running, 'consumer': consumer,
    }  # fmt: skip
    yield from _call(scripts, keys, worker_id, f'{age:.6f}', json.dumps(said, separators=(',', ':')))


def retract(scripts: ScriptSet, keys: Keys, worker_id: str) -> Operation[None]:
    """Remove a worker's announcement. Safe to repeat."""
    yield from _call(scripts, keys, worker_id)


def _call(scripts: ScriptSet, keys: Keys, *args: str) -> Call[Reply]:
    return Call(scripts['announce'], keys.of(scripts['announce']), (round(LIFETIME * 1000), *args))


def scan_workers(
    scripts: ScriptSet, keys: Keys, cursor: bytes
) -> Operation[tuple[bytes, float, dict[bytes, WorkerInfo | None]]]:
    """Take a step through the announcements. Some may come again in later steps.

    Returns:
        The next cursor, b'0' at the end; the server's time; and workers by id, None for a malformed entry.
    """
    call = Call[Reply](scripts['workers'], keys.of(scripts['workers']), (cursor, PAGE))
    cursor, now, words = yield from call
    found = zip(words[::2], words[1::2], strict=True)
    return cursor, float(now), {worker_id: read_worker(worker_id, text) for worker_id, text in found}


def list_workers(scripts: ScriptSet, keys: Keys, cursor: bytes) -> Operation[tuple[bytes, list[WorkerInfo]]]:
    """Take a step through the workers that were seen in the last `LIFETIME` seconds. Returns the next cursor, too."""
    cursor, now, found = yield from scan_workers(scripts, keys, cursor)
    return cursor, [each for each in found.values() if each is not None and abs(now - each.seen) <= LIFETIME]


def read_worker(worker_id: bytes, text: bytes) -> WorkerInfo | None:
    """Parse an announcement; None if it is malformed."""
    try:
        times, said = text.split(b' ', 2)[:2], json.loads(text.split(b' ', 2)[2])
        values = {name: said[name] for name in _KINDS}
        seen, since = map(number_of, times)
        if seen is None or since is None or any(type(values[name]) is not kind for name, kind in _KINDS.items()):
            return None
        return WorkerInfo(worker_id.decode(), since=since, seen=seen, **values)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
