"""The commands that act on items: how items become a script's arguments, and what the answers mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import chain
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeAlias

from torrelque.core import checks
from torrelque.core.codec import Serialiser, dump_headers, dump_payload
from torrelque.core.models import TIME_LIMIT, Deadline, Payload, Receipt, TorrelqueTaskStatus
from torrelque.core.protocol import Arg, Reply
from torrelque.errors import (
    TorrelqueDurabilityError,
    TorrelqueError,
    TorrelqueExistsError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueReplyError,
    TorrelqueTooLargeError,
    TorrelqueValueError,
)

__all__ = (
    'ADD',
    'CANCEL',
    'ENQUEUE',
    'ERASE',
    'EXTEND',
    'GIVEBACK',
    'MAX_ITEMS',
    'NEW_IDS',
    'NO_LINE',
    'PROGRESS',
    'PURGE',
    'REDRIVE',
    'REJECT',
    'RELEASE',
    'REQUEUE',
    'Answer',
    'ClaimedTask',
    'Command',
    'EnqueueItem',
    'Expiry',
    'IfExists',
    'Item',
    'Line',
    'Moment',
    'OnExpiry',
    'Outcome',
    'Priority',
    'ReleaseItem',
    'RequeueItem',
    'cancel_item',
    'cap',
    'check_if_exists',
    'claim_error',
    'claim_item',
    'enqueue_in',
    'enqueue_item',
    'enqueue_words',
    'exists_error',
    'expiry_words',
    'extend_item',
    'group_of',
    'headers_word',
    'line_words',
    'new_item',
    'only_replacing',
    'progress_item',
    'purge_item',
    'redrive_item',
    'reject_item',
    'release_item',
    'release_words',
    'requeue_item',
    'requeue_words',
    'with_time_limit',
)  # fmt: skip

NEW_IDS = '+2'
"""Instead of the number of words of an item, says that the server need not look for its id."""

MAX_ITEMS = 250
"""Maximum number of items in one call of a script, which then blocks the server for about 5 ms at most."""

Item: TypeAlias = tuple[Arg, ...]
"""The arguments of one item of a call."""

Expiry: TypeAlias = tuple[str, str]
"""When a task expires, and what is to become of it then, as arguments."""

NEVER: Expiry = ('', '')

Line: TypeAlias = tuple[bytes, str]
"""The group and the level of a task, as arguments; empty for none."""

NO_LINE: Line = (b'', '')

Priority: TypeAlias = Literal['high', 'normal', 'low']
"""The priority of a task among those without a group."""

_BEFORE_LINE = 9
"""Words of an item to enqueue before its group."""

IfExists: TypeAlias = Literal['ignore', 'raise', 'replace']
"""What to do if there is a task with the id of a new one."""


class Moment(Protocol):
    """What a datetime has."""

    def timestamp(self) -> float: ...

    def utcoffset(self) -> Any: ...  # noqa: ANN401 - a timedelta


OnExpiry: TypeAlias = Literal['drop', 'reject']
"""What to do with a task that expires."""

_REPLACE, _ONLY = 'replace', 'only'


class Outcome(Enum):
    """The outcome of a command for one item."""

    NEW = ord('n')
    EXISTING = ord('e')
    REPLACED = ord('r')
    WORKING = ord('w')
    """Not replaced: a consumer is working on it."""
    DEAD = ord('d')
    """Not replaced: it is a dead letter."""
    AGAIN = ord('a')
    """Not done: the caller has to send the item again."""
    OK = ord('o')
    CLAIMED = ord('c')
    """It was worked on: its claim is ended, or its consumer asked to end it."""
    LOST = ord('l')
    UNKNOWN = ord('u')
    BROKEN = ord('x')
    """The task's state is not a hash, because another program wrote to its key."""


_OUTCOMES = {outcome.value: outcome for outcome in Outcome}  # faster than Outcome(letter) on a hot path

Answer: TypeAlias = 'Outcome | Deadline | TorrelqueDurabilityError | TorrelqueTooLargeError'
"""An outcome, the new deadline of an extended claim, or an error.

An error means that the item was written but not confirmed, or that it is too large for the server.
"""


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity, because each call looks one up
class Command:
    """A script that takes items.

    Attributes:
        name: The script's name.
        laned: Whether the calls use a lane, which makes them safe to repeat.
        limit: Maximum number of items in a call.
        trailer: Arguments after the items.
        by_claim: Whether the items begin with a claim, as `claim_item` writes it.
        own: How many words at the start of an item are its own.
        shared: How many words follow that are usually the same for all items, and are then sent once. If an item has
            further words, all items are padded to its length.
        extra: Where among the further words that one is which often is the only one that is not empty: it is then sent
            after the item's own words. 0 for none.
        adds: Whether all items are tasks with ids that were drawn for this call, so that the server need not look for
            them. A call that may have been made before is another command.
    """

    name: str
    laned: bool = True
    limit: int = MAX_ITEMS
    trailer: Item = ()
    by_claim: bool = False
    own: int = 0
    shared: int = 0
    extra: int = 0
    adds: bool = False

    def arguments(self, items: Sequence[Item]) -> Item:
        """Return the arguments of a call for these items, of which there is at least one."""
        if not self.shared:
            return (*chain.from_iterable(items), *self.trailer)
        own, common = self.own, items[0][self.own :]
        if len(common) == self.shared and [item[own:] for item in items].count(common) == len(items):
            return (
                NEW_IDS if self.adds else own,
                *common,
                *chain.from_iterable([item[:own] for item in items]),
                *self.trailer,
            )
        width = max(map(len, items))
        if self.extra and width > self.extra and (rows := self._with_extra(items)):
            return (own + 1, *items[0][own : own + self.shared], *chain.from_iterable(rows), *self.trailer)
        padded = [item if len(item) == width else item + ('',) * (width - len(item)) for item in items]
        return (width, *chain.from_iterable(padded), *self.trailer)

    def _with_extra(self, items: Sequence[Item]) -> list[Item]:
        """Return each item's own words and its extra one; nothing if they differ in more."""
        own, end, extra = self.own, self.own + self.shared, self.extra
        common, rows = items[0][own:end], list[Item]()
        for item in items:
            if item[own:end] != common or any(item[end:extra]) or any(item[extra + 1 :]):
                return []
            rows.append((*item[:own], *(item[extra : extra + 1] or (b'',))))
        return rows

    def parse(self, reply: Reply) -> list[Answer]:
        """Return an answer for each item. Laned commands reply with letters, `EXTEND` with a list."""
        if self.laned:
            (letters,) = reply
            if letters.count(letters[:1]) == len(letters):  # usually all items have the same outcome
                return [_OUTCOMES[letters[0]]] * len(letters) if letters else []
            return [_OUTCOMES[letter] for letter in letters]
        answers: Sequence[bytes] = reply
        return [_OUTCOMES[answer[0]] if answer in (b'l', b'u', b'x') else Deadline.parse(answer) for answer in answers]


ENQUEUE = Command('enqueue', own=2, shared=4, extra=_BEFORE_LINE)
ADD = Command('enqueue', own=2, shared=4, extra=_BEFORE_LINE, adds=True)
RELEASE = Command('release', by_claim=True, own=3, shared=3)
REQUEUE = Command('requeue', by_claim=True)
REJECT = Command('reject', by_claim=True)
GIVEBACK = Command('giveback', by_claim=True)
EXTEND = Command('extend', laned=False, by_claim=True)
PROGRESS = Command('progress', by_claim=True)
CANCEL = Command('cancel', limit=1)
REDRIVE = Command('redrive')
PURGE = Command('purge')
ERASE = Command('erase', limit=1)


@lru_cache(maxsize=64)
def enqueue_in(generation: int) -> Command:
    """Return the command that enqueues only while the layout of the shards has this generation."""
    return Command(ENQUEUE.name, trailer=(generation,), own=ENQUEUE.own, shared=ENQUEUE.shared, extra=ENQUEUE.extra)


class ClaimedTask(NamedTuple):
    """A task as the claim script returns it.

    Attributes:
        receipt: The claim.
        payload: The serialised payload.
        deadline: When the lease ends, as Unix time on the server's clock.
        headers: The serialised headers.
        expires: When the lease ends at the earliest, on the client's clock: counted from before the claim was sent.
        attempt: The number of this delivery since the task was enqueued or last redriven, from 1.
        group: The group of the task; None for none.
        fence: The number of the claim within its group; None without a group.
    """

    receipt: Receipt
    payload: bytes
    deadline: float
    headers: bytes
    expires: float
    attempt: int
    group: str | None = None
    fence: int | None = None


def seconds(value: float | None) -> str:
    """Format a time as an argument; empty for None."""
    return '' if value is None else f'{value:.6f}'


@lru_cache(maxsize=64)
def _precisely(timeout: float) -> str:
    """Format a time-out as an argument. Most tasks have the same, so they share one string."""
    return f'{timeout:.15g}'


def claim_item(target: Receipt | str) -> Item:
    """Write a claim: the receipt's, or for a plain id the one that is live."""
    if isinstance(target, Receipt):
        return target.id.encode(), target.token, target.dequeue_count
    return target.encode(), '', ''


def enqueue_item(
    task_id: str, payload: bytes, timeout: float, delay: float | None, max_dequeues: int | None, headers: bytes
) -> Item:
    """Write a task to enqueue. Times are in seconds; values are not checked."""
    limit = '' if max_dequeues is None else max_dequeues
    return task_id.encode(), payload, _precisely(timeout), seconds(delay), limit, headers


def release_item(target: Receipt | str, status: TorrelqueTaskStatus, ttl: float | None, result: bytes | None) -> Item:
    """Write a claim to release.

    Args:
        target: The claim.
        status: The final status.
        ttl: How long to keep the state, in seconds; None does not keep it.
        result: The serialised result to keep with the state; None for none.
    """
    return *claim_item(target), int(status), *_kept(ttl, result)


def _kept(ttl: float | None, result: bytes | None) -> tuple[Arg, bytes]:
    if ttl is None:
        return '', b''
    milliseconds = max(1, round(ttl * 1000))
    return (-milliseconds, b'') if result is None else (milliseconds, result)


def requeue_item(
    target: Receipt | str, delay: float | None, timeout: float | None, *, count: bool = True, group: bool = False
) -> Item:
    """Write a claim to requeue, with a delay and a new time-out in seconds; None for none.

    Without ``count``, this delivery does not count as an attempt. With ``group``, the group waits for the delay.
    """
    return *claim_item(target), *_requeue_words(delay, timeout, count=count, group=group)


def _requeue_words(
    delay: float | None, timeout: float | None, *, count: bool, group: bool
) -> tuple[Arg, Arg, Arg, Arg]:
    return seconds(delay), '' if timeout is None else f'{timeout:.15g}', '' if count else 1, 'group' if group else ''


def reject_item(target: Receipt | str, reason: str, max_rejected: int | None = None) -> Item:
    """Write a claim to reject. ``max_rejected`` is the maximum number of dead letters to keep."""
    return *claim_item(target), reason.encode(), *cap(max_rejected, '')


def cap(max_rejected: int | None, *without: Arg) -> tuple[Arg, ...]:
    """Return the maximum number of dead letters to keep as a script's last argument; ``without`` if there is none."""
    return without if max_rejected is None else (max_rejected,)


def extend_item(target: Receipt | str, timeout: float | None) -> Item:
    """Write a claim to extend by a time in seconds; None extends it by the task's time-out."""
    return *claim_item(target), seconds(timeout)


def progress_item(target: Receipt, value: float, total: float | None, note: str | None) -> Item:
    """Check and write the progress of a claimed task."""
    checked = checks.check_amount('value', value)
    most = None if total is None else checks.check_amount('total', total, least=0.0)
    text = '' if note is None else checks.check_note('note', note)
    return *claim_item(target), f'{checked:.15g} {"-" if most is None else f"{most:.15g}"} {text}'.encode()


def cancel_item(task_id: str, running: str = '') -> Item:
    """Write a task to cancel, and what to do if it is worked on: ``end``, ``ask``, or nothing."""
    return task_id.encode(), running


def redrive_item(task_id: str, _before: float) -> Item:
    """Write a dead letter to redrive."""
    return (task_id.encode(),)


def purge_item(task_id: str, before: float) -> Item:
    """Write a dead letter to purge if it was rejected no later than ``before``, in Unix time; may be infinite."""
    return task_id.encode(), '' if before == math.inf else seconds(before)


# What callers give ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)  # here and below not frozen, because freezing makes it twice as slow to create
class EnqueueItem(Generic[Payload]):
    """A task to enqueue. The fields are the arguments of ``Torrelque.enqueue`` with the same names."""

    task: Payload
    task_timeout: float | None = None
    delay: float | None = None
    task_id: str | None = None
    max_dequeues: int | None = None
    headers: Mapping[str, str] | None = None
    time_limit: float | None = None
    if_exists: IfExists | None = None
    replace: bool = False
    expires_in: float | None = None
    expires_at: Moment | float | None = None
    on_expiry: OnExpiry | None = None
    group: str | None = None
    priority: Priority | None = None


@dataclass(slots=True)
class RequeueItem:
    """A claimed task to requeue. The fields are arguments of ``Torrelque.requeue``; ``task`` is its ``task_id``."""

    task: Any
    delay: float | None = None
    task_timeout: float | None = None
    count: bool = True
    group: bool = False


@dataclass(slots=True)
class ReleaseItem:
    """A claimed task to release. The fields are arguments of ``Torrelque.release``; ``task`` is its ``task_id``."""

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
    """Check and write the arguments that the tasks of a bulk call share, for `new_item`."""
    timeout = None if task_timeout is None else checks.check_seconds('task_timeout', task_timeout)
    timeout = timeout or checks.check_seconds('Torrelque.task_timeout', default_timeout)
    if not timeout:
        raise TorrelqueValueError(f'Torrelque.task_timeout must be above 0, got {default_timeout!r}')
    due = '' if delay is None else seconds(checks.check_seconds('delay', delay, negative=True) or None)
    limit = default_limit if max_dequeues is None else checks.check_count('max_dequeues', max_dequeues)
    return _precisely(timeout), due, '' if limit is None else limit


def new_item(
    serialiser: Serialiser[Payload],
    new_id: Callable[[], str],
    task: Payload,
    words: tuple[Arg, Arg, Arg],
    task_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    replace: bool = False,
    expiry: Expiry = NEVER,
    line: Line = NO_LINE,
) -> Item:
    """Check and write a task to enqueue.

    Args:
        serialiser: Serialises the payload.
        new_id: Draws an id.
        task: The payload.
        words: What `enqueue_words` returned.
        task_id: The id; None draws a new one.
        headers: The task's headers.
        replace: Whether it replaces a waiting task with this id.
        expiry: What `expiry_words` returned.
        line: What `line_words` returned.
    """
    checked = new_id() if task_id is None else str(checks.check_text('task_id', task_id))
    written = headers_word(headers)
    item = checked.encode(), dump_payload(serialiser, task), *words, written
    if not replace and expiry is NEVER and line is NO_LINE:
        return item
    return *item, _REPLACE if replace else '', *expiry, *(() if line is NO_LINE else line)


def expiry_words(
    expires_in: float | None, expires_at: Moment | float | None, on_expiry: OnExpiry | None, delay: float | None
) -> Expiry:
    """When a task expires, and what is to become of it then, checked."""
    if on_expiry not in (None, 'drop', 'reject'):
        raise TorrelqueValueError(f"on_expiry must be 'drop' or 'reject', got {on_expiry!r}")
    action = 'reject' if on_expiry == 'reject' else ''
    if expires_in is not None:
        if expires_at is not None:
            raise TorrelqueValueError(f'give either expires_in or expires_at, got {expires_in!r} and {expires_at!r}')
        wait = checks.check_duration('expires_in', expires_in)
        if wait <= max(0.0, delay or 0.0):
            more = f'more than delay ({delay!r} s)' if delay and delay > 0 else 'above 0'
            raise TorrelqueValueError(f'expires_in must be {more}, got {expires_in!r}: the task would never start')
        return f'+{seconds(wait)}', action
    if expires_at is not None:
        return seconds(checks.check_moment('expires_at', expires_at)), action
    if on_expiry is not None:
        raise TorrelqueValueError(f'on_expiry={on_expiry!r} needs expires_in or expires_at')
    return NEVER


def line_words(group: str | None, priority: Priority | None) -> Line:
    """Check and write the group and the priority of a task."""
    if group is None:
        if priority not in (None, 'high', 'normal', 'low'):
            raise TorrelqueValueError(f"priority must be 'high', 'normal' or 'low', got {priority!r}")
        return NO_LINE if priority in (None, 'normal') else (b'', str(priority))
    if priority is not None:
        raise TorrelqueValueError(
            f'a task has either a group or a priority, got group={group!r} and priority={priority!r}: '
            'limit(group=..., weight=...) sets the share of a group'
        )
    return checks.check_group('group', group).encode(), ''


def group_of(item: Item) -> bytes:
    """Return the group of an item to enqueue; empty for none."""
    return bytes(item[_BEFORE_LINE]) if len(item) > _BEFORE_LINE else b''  # type: ignore[arg-type]  # it is bytes


def only_replacing(item: Item) -> Item | None:
    """Return the item so that it only replaces a task and adds none; None if it does not replace tasks."""
    return (*item[:6], _ONLY, *item[7:]) if len(item) > 6 and item[6] else None  # noqa: PLR2004 - words before that


def check_if_exists(if_exists: IfExists | None, replace: bool, default: IfExists = 'ignore') -> IfExists:
    """Check the two arguments, and return what they mean together."""
    if if_exists not in (None, 'ignore', 'raise', 'replace'):
        raise TorrelqueValueError(f"if_exists must be 'ignore', 'raise' or 'replace', got {if_exists!r}")
    if not checks.check_flag('replace', replace):
        return if_exists or default
    if if_exists not in (None, 'replace'):
        raise TorrelqueValueError(f'replace=True contradicts if_exists={if_exists!r}: give one of them')
    return 'replace'


def exists_error(item: Item, answer: object, if_exists: IfExists) -> TorrelqueExistsError | None:
    """Return the error for an answer to `ENQUEUE`; None if the answer is what the caller asked for."""
    task_id, status = str(item[0], 'utf-8'), None  # type: ignore[arg-type]  # it is bytes
    if answer is Outcome.WORKING:
        what, status = f'task {task_id!r} is running', TorrelqueTaskStatus.WORKING
    elif answer is Outcome.DEAD:
        what, status = f'task {task_id!r} is a dead letter', TorrelqueTaskStatus.REJECTED
    elif answer is Outcome.EXISTING and if_exists != 'ignore':
        what = f'there is a task {task_id!r} already'
    else:
        return None
    return TorrelqueExistsError(f'{what}, nothing was changed', task_id, status)


def headers_word(headers: Mapping[str, str] | None) -> bytes:
    """Check and write the headers of a task."""
    return b'' if headers is None else dump_headers(checks.check_headers(headers))


def with_time_limit(headers: Mapping[str, str] | None, time_limit: float | None) -> Mapping[str, str] | None:
    """Return headers with a task's time limit in seconds, checked, if it has one."""
    if time_limit is None:
        return headers
    return {**(checks.check_headers(headers) or {}), TIME_LIMIT: f'{checks.check_time_limit(time_limit):.15g}'}


def requeue_words(
    delay: float | None, task_timeout: float | None, *, count: bool = True, group: bool = False
) -> tuple[Arg, Arg, Arg, Arg]:
    """Check and write what follows the claim of a task to requeue."""
    checks.check_flag('count', count)
    delay = checks.check_seconds('delay', delay, negative=True) or None
    timeout = checks.check_seconds('task_timeout', task_timeout) or None
    if checks.check_flag('group', group) and (delay is None or delay <= 0):
        raise TorrelqueValueError(f'group=True needs a delay above 0, for which the group waits, got {delay!r}')
    return _requeue_words(delay, timeout, count=count, group=group)


def release_words(
    serialiser: Serialiser[Any],
    default_ttl: float,
    result: Any,  # noqa: ANN401 - any value that the serialiser takes
    result_ttl: float | None,
    status: TorrelqueTaskStatus | None,
    finished_ttl: float | None = None,
) -> tuple[Arg, Arg, Arg]:
    """Check and write what follows the claim of a task to release."""
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
    """Return the error that an answer means for a call on a claim; None if it took effect."""
    if answer is Outcome.OK:
        return None
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
