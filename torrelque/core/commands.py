"""The verbs that act on items: how an item is written as a script's arguments, and what the answers mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeAlias

from torrelque.core import checks
from torrelque.core.codec import Serialiser, dump_headers, dump_payload
from torrelque.core.models import TIME_LIMIT, Payload, Receipt, TorrelqueTaskStatus
from torrelque.core.protocol import Arg, Reply
from torrelque.errors import (
    TorrelqueDurabilityError,
    TorrelqueError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTooLargeError,
    TorrelqueValueError,
)

__all__ = (
    'CANCEL',
    'ENQUEUE',
    'ERASE',
    'EXTEND',
    'GIVEBACK',
    'MAX_ITEMS',
    'PURGE',
    'REDRIVE',
    'REJECT',
    'RELEASE',
    'REQUEUE',
    'Answer',
    'ClaimedTask',
    'Command',
    'EnqueueItem',
    'Item',
    'Outcome',
    'ReleaseItem',
    'RequeueItem',
    'cancel_item',
    'claim_error',
    'claim_item',
    'enqueue_in',
    'enqueue_item',
    'enqueue_words',
    'extend_item',
    'new_item',
    'purge_item',
    'redrive_item',
    'reject_item',
    'release_item',
    'release_words',
    'requeue_item',
    'requeue_words',
    'with_time_limit',
)  # fmt: skip

MAX_ITEMS = 250
"""Items in one call of a script, which holds the server for some 5 ms at most."""

Item: TypeAlias = tuple[Arg, ...]
"""The arguments of one item of a call."""


class Outcome(Enum):
    """What became of an item."""

    NEW = ord('n')
    EXISTING = ord('e')
    OK = ord('o')
    LOST = ord('l')
    UNKNOWN = ord('u')
    BROKEN = ord('x')
    """The task's state is not a hash: somebody else wrote to its key."""


_OUTCOMES = {outcome.value: outcome for outcome in Outcome}  # quicker than Outcome(letter), and each item asks

Answer: TypeAlias = 'Outcome | float | TorrelqueDurabilityError | TorrelqueTooLargeError'
"""An outcome, the new deadline of a claim that was extended, or an error.

That is of what was done but is not confirmed, or of an item that is too large for the server.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A script that takes items. ``laned``: made safe to repeat by a lane; ``limit``: items a call.

    ``trailer`` comes after the items. ``by_claim``: its items begin as `claim_item` writes them. ``shared``: as many
    words at the end of each item are mostly the same for all, and are then sent once.
    """

    name: str
    laned: bool = True
    limit: int = MAX_ITEMS
    trailer: Item = ()
    by_claim: bool = False
    shared: int = 0

    def arguments(self, items: Sequence[Item]) -> Item:
        """The arguments of a call for these items."""
        if not self.shared:
            return (*chain.from_iterable(items), *self.trailer)
        width = len(items[0]) - self.shared
        common = items[0][width:]
        if len(items) == 1:
            return (width, *common, *items[0][:width], *self.trailer)
        if [item[width:] for item in items].count(common) == len(items):
            return (width, *common, *chain.from_iterable([item[:width] for item in items]), *self.trailer)
        return (width + self.shared, *chain.from_iterable(items), *self.trailer)

    def parse(self, reply: Reply) -> list[Answer]:
        """One answer an item, of a laned verb's letters or of extend's list."""
        if self.laned:
            (letters,) = reply
            if letters.count(letters[:1]) == len(letters):  # as a rule all items have one outcome
                return [_OUTCOMES[letters[0]]] * len(letters) if letters else []
            return [_OUTCOMES[letter] for letter in letters]
        answers: Sequence[bytes] = reply
        return [_OUTCOMES[answer[0]] if answer in (b'l', b'u', b'x') else float(answer) for answer in answers]


ENQUEUE = Command('enqueue', shared=4)
RELEASE = Command('release', by_claim=True, shared=3)
REQUEUE = Command('requeue', by_claim=True)
REJECT = Command('reject', by_claim=True)
GIVEBACK = Command('giveback', by_claim=True)
EXTEND = Command('extend', laned=False, by_claim=True)
CANCEL = Command('cancel', limit=1)
REDRIVE = Command('redrive')
PURGE = Command('purge')
ERASE = Command('erase', limit=1)


def enqueue_in(generation: int) -> Command:
    """To enqueue while the number of shards is of this generation."""
    return Command(ENQUEUE.name, trailer=(generation,), shared=ENQUEUE.shared)


class ClaimedTask(NamedTuple):
    """A task as the claim script answers it.

    ``deadline`` is on the server's clock; ``expires`` on the client's, counted from before the claim was sent.
    ``attempt`` is which delivery it is since the task was enqueued or last redriven, from 1.
    """

    receipt: Receipt
    payload: bytes
    deadline: float
    headers: bytes
    expires: float
    attempt: int


def seconds(value: float | None) -> str:
    """A time as an argument; empty for none."""
    return '' if value is None else f'{value:.6f}'


@lru_cache(maxsize=64)
def _precisely(timeout: float) -> str:
    """A time-out as an argument. Mostly all have the same, so a bulk of tasks shares one text."""
    return f'{timeout:.15g}'


def claim_item(target: Receipt | str) -> Item:
    """A claim: that of the receipt, or, of a bare id, whichever is live."""
    if isinstance(target, Receipt):
        return target.id.encode(), target.token, target.dequeue_count
    return target.encode(), '', ''


def enqueue_item(
    task_id: str, payload: bytes, timeout: float, delay: float | None, max_dequeues: int | None, headers: bytes
) -> Item:
    limit = '' if max_dequeues is None else max_dequeues
    return task_id.encode(), payload, _precisely(timeout), seconds(delay), limit, headers


def release_item(target: Receipt | str, status: TorrelqueTaskStatus, ttl: float | None, result: bytes | None) -> Item:
    """``ttl``: how long the state is kept, in seconds, with the result or, if that is None, without; None: not."""
    return *claim_item(target), int(status), *_kept(ttl, result)


def _kept(ttl: float | None, result: bytes | None) -> tuple[Arg, bytes]:
    if ttl is None:
        return '', b''
    milliseconds = max(1, round(ttl * 1000))
    return (-milliseconds, b'') if result is None else (milliseconds, result)


def requeue_item(target: Receipt | str, delay: float | None, timeout: float | None) -> Item:
    return *claim_item(target), seconds(delay), '' if timeout is None else f'{timeout:.15g}'


def reject_item(target: Receipt | str, reason: str, max_rejected: int | None = None) -> Item:
    """``max_rejected``: the most dead letters to be kept."""
    return *claim_item(target), reason.encode(), *cap(max_rejected, '')


def cap(max_rejected: int | None, *without: Arg) -> tuple[Arg, ...]:
    """The most dead letters to be kept, as a script's last argument."""
    return without if max_rejected is None else (max_rejected,)


def extend_item(target: Receipt | str, timeout: float | None) -> Item:
    return *claim_item(target), seconds(timeout)


def cancel_item(task_id: str) -> Item:
    return (task_id.encode(),)


def redrive_item(task_id: str, _before: float) -> Item:
    return (task_id.encode(),)


def purge_item(task_id: str, before: float) -> Item:
    """``before``: only if the task was rejected no later, Unix time; infinite for whenever it was."""
    return task_id.encode(), '' if before == math.inf else seconds(before)


# What callers give ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)  # not frozen, here and below, as that makes it twice as slow to make
class EnqueueItem(Generic[Payload]):
    """A task to enqueue. The fields are those arguments of ``Torrelque.enqueue``."""

    task: Payload
    task_timeout: float | None = None
    delay: float | None = None
    task_id: str | None = None
    max_dequeues: int | None = None
    headers: Mapping[str, str] | None = None
    time_limit: float | None = None


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
    finished_ttl: float | None = None


def enqueue_words(
    default_timeout: float,
    default_limit: int | None,
    task_timeout: float | None,
    delay: float | None,
    max_dequeues: int | None,
) -> tuple[Arg, Arg, Arg]:
    """What the tasks of a bulk call have in common, checked; see `new_item`."""
    timeout = checks.check_seconds('task_timeout', task_timeout)
    timeout = timeout or checks.check_seconds('Torrelque.task_timeout', default_timeout)
    if not timeout:
        raise TorrelqueValueError(f'Torrelque.task_timeout must be above 0, got {default_timeout!r}')
    delay = checks.check_seconds('delay', delay, negative=True) or None
    limit = default_limit if max_dequeues is None else checks.check_count('max_dequeues', max_dequeues)
    return _precisely(timeout), seconds(delay), '' if limit is None else limit


def new_item(
    serialiser: Serialiser[Payload],
    new_id: Callable[[], str],
    task: Payload,
    words: tuple[Arg, Arg, Arg],
    task_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Item:
    """A task to enqueue."""
    checked = new_id() if task_id is None else str(checks.check_text('task_id', task_id))
    written = b'' if headers is None else dump_headers(checks.check_headers(headers))
    return checked.encode(), dump_payload(serialiser, task), *words, written


def with_time_limit(headers: Mapping[str, str] | None, time_limit: float | None) -> Mapping[str, str] | None:
    """Headers with the time limit of a task, checked, if it has one."""
    if time_limit is None:
        return headers
    return {**(checks.check_headers(headers) or {}), TIME_LIMIT: f'{checks.check_duration("time_limit", time_limit):g}'}


def requeue_words(delay: float | None, task_timeout: float | None) -> tuple[Arg, Arg]:
    """What follows the claim of a task to requeue, checked."""
    delay = checks.check_seconds('delay', delay, negative=True) or None
    timeout = checks.check_seconds('task_timeout', task_timeout) or None
    return seconds(delay), '' if timeout is None else f'{timeout:.15g}'


def release_words(
    serialiser: Serialiser[Any],
    default_ttl: float,
    result: Any,  # noqa: ANN401 - whatever the serialiser takes
    result_ttl: float | None,
    status: TorrelqueTaskStatus | None,
    finished_ttl: float | None = None,
) -> tuple[Arg, Arg, Arg]:
    """What follows the claim of a task to release, checked."""
    if status is not TorrelqueTaskStatus.COMPLETED:
        status = _check_final(status, with_result=result is not None)
    ttl = checks.check_seconds('result_ttl', default_ttl if result_ttl is None else result_ttl) or 0.0
    kept = checks.check_seconds('finished_ttl', finished_ttl) or None
    if result is None:
        return int(status), *_kept(kept, None)
    return int(status), *_kept(ttl, dump_payload(serialiser, result))


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
