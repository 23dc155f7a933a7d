"""Items of calls: checked and written down before anything is sent, and what their answers mean."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torrelque.core import checks
from torrelque.core.codec import Serialiser, dump_headers, dump_payload
from torrelque.core.commands import Answer, Item, Outcome, enqueue_item, release_item, requeue_item
from torrelque.core.models import Payload, Receipt, TorrelqueTaskStatus
from torrelque.errors import (
    TorrelqueDurabilityError,
    TorrelqueError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueValueError,
)

__all__ = (
    'CHUNK',
    'EnqueueItem',
    'ReleaseItem',
    'RequeueItem',
    'claim_error',
    'random_id',
    'write_all',
    'write_enqueue',
    'write_release',
    'write_requeue',
)


T = TypeVar('T')
W = TypeVar('W')

CHUNK = 250
"""Items that are checked and serialised in one turn of the event loop: a few milliseconds."""


@dataclass(slots=True)  # not frozen, here and below, as that makes it twice as slow to make
class EnqueueItem(Generic[Payload]):
    """A task to enqueue. The fields are those arguments of ``Torrelque.enqueue``."""

    task: Payload
    task_timeout: float | None = None
    delay: float | None = None
    task_id: str | None = None
    max_dequeues: int | None = None
    headers: Mapping[str, str] | None = None


@dataclass(slots=True)
class RequeueItem:
    """A claimed task to requeue, as by ``Torrelque.requeue``."""

    task: Any
    delay: float | None = None
    task_timeout: float | None = None


@dataclass(slots=True)
class ReleaseItem:
    """A claimed task to release, as by ``Torrelque.release``."""

    task: Any
    result: Any = None
    result_ttl: float | None = None
    status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED


async def write_all(items: Iterable[T], write: Callable[[T], W], checkpoint: Callable[[], Awaitable[None]]) -> list[W]:
    """Check and serialise all items of a bulk call, a chunk at a time, while other tasks run.

    Nothing is sent before the last of them is known to be good.
    """
    written: list[W] = []
    for item in items:
        if written and not len(written) % CHUNK:
            await checkpoint()
        written.append(write(item))
    return written


def random_id() -> str:
    """An id for a task that was given none."""
    return os.urandom(16).hex()


def write_enqueue(
    new: EnqueueItem[Payload],
    serialiser: Serialiser[Payload],
    default_timeout: float,
    default_limit: int | None,
    new_id: Callable[[], str] = random_id,
) -> tuple[str, Item]:
    """The task's id and its arguments."""
    task_id = new_id() if new.task_id is None else str(checks.check_text('task_id', new.task_id))
    timeout = checks.check_seconds('task_timeout', new.task_timeout)
    timeout = timeout or checks.check_seconds('Torrelque.task_timeout', default_timeout)
    if not timeout:
        raise TorrelqueValueError(f'Torrelque.task_timeout must be above 0, got {default_timeout!r}')
    delay = checks.check_seconds('delay', new.delay, negative=True) or None
    limit = default_limit if new.max_dequeues is None else checks.check_count('max_dequeues', new.max_dequeues)
    headers = dump_headers(checks.check_headers(new.headers))
    payload = dump_payload(serialiser, new.task)
    return task_id, enqueue_item(task_id, payload, timeout, delay, limit, headers)


def write_requeue(item: RequeueItem) -> tuple[Receipt | str, Item]:
    """The claim that is meant and its arguments."""
    target = checks.check_target(item.task)
    delay = checks.check_seconds('delay', item.delay, negative=True) or None
    timeout = checks.check_seconds('task_timeout', item.task_timeout) or None
    return target, requeue_item(target, delay, timeout)


def write_release(item: ReleaseItem, serialiser: Serialiser[Any], default_ttl: float) -> tuple[Receipt | str, Item]:
    """The claim that is meant and its arguments."""
    target = checks.check_target(item.task)
    status = item.status
    if status is not TorrelqueTaskStatus.COMPLETED:
        status = _check_final(status, with_result=item.result is not None)
    ttl = checks.check_seconds('result_ttl', default_ttl if item.result_ttl is None else item.result_ttl)
    if item.result is None:
        return target, release_item(target, status, None, b'')
    return target, release_item(target, status, ttl, dump_payload(serialiser, item.result))


def _check_final(status: TorrelqueTaskStatus | None, *, with_result: bool) -> TorrelqueTaskStatus:
    if status is None and not with_result:
        return TorrelqueTaskStatus.COMPLETED
    if status not in (TorrelqueTaskStatus.COMPLETED, TorrelqueTaskStatus.REJECTED):
        raise TorrelqueError(f'Invalid status for released task: {status}')
    return TorrelqueTaskStatus(status)


def claim_error(target: Receipt | str, answer: Answer) -> TorrelqueError | None:
    """What an answer means to somebody who acted on a claim; None if it was done."""
    if isinstance(answer, TorrelqueDurabilityError):
        return answer
    task_id = target.id if isinstance(target, Receipt) else str(target)
    if answer is Outcome.LOST:
        return TorrelqueLeaseLostError(f'the claim on task {task_id!r} is no longer live, nothing was changed')
    if answer is Outcome.UNKNOWN:
        return TorrelqueLookupError(f'there is no live claim on task {task_id!r}, nothing was changed')
    if answer is Outcome.BROKEN:
        return TorrelqueReplyError(f'the state of task {task_id!r} is not a hash, nothing was changed', 'WRONGTYPE')
    return None
