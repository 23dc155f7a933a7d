"""The types that the core and the transports share.

An *operation* is a generator. It yields a *batch* of calls, is sent their
replies in the same order, and returns its result::

    def size(keys: Keys) -> Operation[int]:
        return (yield from Call('LLEN', (keys.pending,), parse=as_int))

A driver sends each batch to a server. If the outcome of a batch is unknown, the
driver throws :class:`Interrupted` into the operation, which may yield further
batches to clean up, and then raises it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueNewerError,
    TorrelqueReplyError,
    is_transient,
)

__all__ = (
    'Arg',
    'Batch',
    'Call',
    'Course',
    'Interrupted',
    'Operation',
    'Reply',
    'Script',
    'as_is',
    'blocking_drive',
    'resume',
)

T = TypeVar('T')

NEEDED = 'Redis 6.2 or newer, Valkey or KeyDB'
UNKNOWN_COMMAND = re.compile(r'Unknown (Redis )?command called from')
"""Part of a server's error about a script that uses a command unknown to the server."""

VERSION = re.compile(r'(?m)^((?:redis|valkey)_version):([\w.-]+)')

Arg: TypeAlias = bytes | str | int
"""A word of a command. Callers format times as text."""

Reply: TypeAlias = Any
"""A server's reply: bytes, int, None, a list of these, or a TorrelqueReplyError, which is a value here and not raised.

Each call's parser knows which type to expect. A union would force every parser to check.
"""

Batch: TypeAlias = 'Sequence[Call[Any]]'
"""Calls that are sent together, in order, on one connection."""

Operation: TypeAlias = Generator[Batch, Sequence[Reply], T]
"""Yields batches, receives a reply for each call of the last batch, and returns a result."""


class Interrupted(BaseException):
    """Thrown into an operation whose last batch has an unknown outcome.

    It is not an ``Exception``, so handlers of ordinary errors do not swallow it.

    Attributes:
        cause: The error to raise to callers; None if the engine is shutting down.
    """

    def __init__(self, cause: Exception | None = None) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Script:
    """A server-side script.

    Attributes:
        name: The name of its verb, such as ``'enqueue'``.
        source: The Lua code.
        keys: The logical names of the keys that it declares, in order.
        sha: The SHA-1 digest of the source, by which servers know it.
    """

    name: str
    source: str
    keys: tuple[str, ...]
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sha', hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


def as_is(reply: Reply) -> Reply:
    """Return a reply unchanged."""
    return reply


@dataclass(slots=True)  # not frozen: freezing makes it twice as slow to create, and nothing changes one
class Call(Generic[T]):
    """One command, or one call of a script.

    Iterate over it to run it as an operation. That loads the script if the
    server does not know it, and is the only place that does.

    Attributes:
        command: A :class:`Script`, or the name of a command (one or more words).
        keys: The keys, as they are on the server.
        args: The arguments after the keys.
        parse: Makes the result from a reply that is not an error.
        near: For a call without keys on a cluster, a key on the server to ask; None for any server.
    """

    command: Script | str
    keys: tuple[Arg, ...] = ()
    args: tuple[Arg, ...] = ()
    parse: Callable[[Reply], T] = as_is
    near: Arg | None = None

    @property
    def routing_key(self) -> Arg | None:
        """The key that determines which server of a cluster to ask; None for any."""
        return self.keys[0] if self.keys else self.near

    def words(self) -> list[Arg]:
        """Return the command as it is sent."""
        if isinstance(self.command, Script):
            return ['EVALSHA', self.command.sha, len(self.keys), *self.keys, *self.args]
        return [*self.command.split(), *self.keys, *self.args]

    def words_with_source(self) -> list[Arg]:
        """Return the command with a script's source, as an EVAL: the server need not know the script."""
        if isinstance(self.command, Script):
            return ['EVAL', self.command.source, len(self.keys), *self.keys, *self.args]
        return self.words()

    def __iter__(self) -> Operation[T]:
        (reply,) = yield (self,)
        if isinstance(reply, TorrelqueReplyError):
            reply = yield from self._after_error(reply)
        return self.parse(reply)

    def _after_error(self, reply: Reply) -> Operation[Reply]:
        """Return the reply of another attempt, if the cause of the error can be removed. Otherwise raise the error."""
        if _is_missing(reply) and isinstance(self.command, Script):
            load: Call[Reply] = Call('SCRIPT LOAD', args=(self.command.source,), near=self.routing_key)
            loaded, reply = yield (load, self)
            if _is_missing(reply) and isinstance(loaded, TorrelqueReplyError):
                raise _explained(loaded)
        if isinstance(reply, TorrelqueReplyError):
            if UNKNOWN_COMMAND.search(str(reply)):
                (info,) = yield (Call[Reply]('INFO', args=('server',), near=self.routing_key),)
                raise _outdated(info, reply)
            if reply.code == 'NEWER' and isinstance(self.command, Script):
                raise _newer(self.keys[self.command.keys.index('counters')])
            raise reply
        return reply


def _is_missing(reply: Reply) -> bool:
    """Whether the server does not know the script."""
    return isinstance(reply, TorrelqueReplyError) and reply.code == 'NOSCRIPT'


def _newer(counters: Arg) -> TorrelqueNewerError:
    """Make the error for a queue with features unknown to this version. Its name is part of its keys."""
    key = counters.decode() if isinstance(counters, bytes) else str(counters)
    name = re.sub(r'^\{(.+?)(:\d+)?\}$', r'\1', key.rpartition(':')[0])
    return TorrelqueNewerError(f'queue {name!r} uses features of a later version: upgrade this client')


def _explained(refusal: TorrelqueReplyError) -> TorrelqueReplyError:
    """Explain a refusal to load a script, unless the refusal is transient."""
    if not is_transient(refusal):
        refusal.args = (f'SCRIPT LOAD was refused, which every call needs: {refusal}',)
    return refusal


def _outdated(info: Reply, answer: TorrelqueReplyError) -> TorrelqueReplyError:
    """Add which servers work, and this server's version if known, to an error about an unknown command."""
    found = VERSION.findall(info.decode(errors='replace')) if isinstance(info, bytes) else []
    versions = ', '.join(f'{name} {value}' for name, value in found)
    server = f'this server ({versions})' if versions else 'this server'
    answer.args = (
        f'queues need {NEEDED}, and {server} does not know a command that they use, or has it disabled: {answer}',
    )
    return answer


def resume(operation: Operation[T], batch: Batch, *, interrupted: bool = False) -> Operation[T]:
    """Continue an operation that has yielded a batch.

    Args:
        operation: The operation.
        batch: The batch that it yielded last. It is yielded again, so that the driver sends it, perhaps for the
            second time.
        interrupted: Interrupt the operation instead.

    Returns:
        What the operation returns.
    """
    try:
        if interrupted:
            batch = operation.throw(Interrupted())
        while True:
            try:
                replies = yield batch
            except (Interrupted, Exception) as error:  # noqa: BLE001 - the operation handles it
                batch = operation.throw(error)
            else:
                batch = operation.send(replies)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # the language types a generator's return value as Any


def blocking_drive(operation: Operation[T], execute: Callable[[Batch], Sequence[Reply]]) -> T:
    """Run an operation to its end without an event loop.

    Args:
        operation: The operation.
        execute: Sends a batch and returns the replies; all I/O happens here. If it raises
            TorrelqueConnectionError, the operation is interrupted and may clean up through ``execute``.

    Returns:
        What the operation returns.

    Raises:
        TorrelqueConnectionError: ``execute`` raised it, and the operation could not recover.
    """
    try:
        batch = next(operation)
        while True:
            try:
                replies = execute(batch)
            except TorrelqueConnectionError as error:
                batch = operation.throw(Interrupted(error))
            else:
                batch = operation.send(replies)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # as in `resume`
    except Interrupted as interrupted:
        raise interrupted.cause or TorrelqueError('the operation was interrupted') from None


class Course:
    """An operation that runs without a task: callbacks continue it.

    Args:
        start: Sends a batch, and later calls a function with the replies, or with another function if a task has to
            get them. Returns what abandons the batch; None if it cannot be sent without a task.
        operation: The operation.
        take_over: Called if it needs a task to continue. The task drives ``operation`` with ``left`` as ``begun``.
        end: Called when the operation has ended, with the error if it raised one.

    Attributes:
        operation: The operation.
        abandon: Abandons the call in flight; None if there is none.
        left: What a task continues with: a batch, or a function that returns replies.
    """

    __slots__ = ('_end', '_start', '_take_over', 'abandon', 'left', 'operation')

    def __init__(
        self,
        start: Callable[[Batch, Callable[[Any], None]], Callable[[], None] | None],
        operation: Operation[Any],
        take_over: Callable[[Course], None],
        end: Callable[[Course, Exception | None], None],
    ) -> None:
        self._start = start
        self._take_over = take_over
        self._end = end
        self.operation: Operation[Any] = operation
        self.abandon: Callable[[], None] | None = None
        self.left: Any = None

    def go_on(self, replies: Any = None) -> None:  # noqa: ANN401 - replies, or a function that a task calls
        """Start the operation, or continue it with the replies to its last batch. Raises nothing."""
        if callable(replies):
            self.left = replies
            self._take_over(self)
            return
        try:
            batch = self.operation.send(replies)
        except StopIteration:
            self._end(self, None)
        except Interrupted as interrupted:
            self._end(self, interrupted.cause)
        except Exception as caught:  # noqa: BLE001 - no caller gets it, and the engine must not end
            self._end(self, caught)
        else:
            try:
                self.abandon = self._start(batch, self.go_on)
            except Exception:  # noqa: BLE001 - `execute` raises it again, in the task that takes over
                self.abandon = None
            if self.abandon is None:
                self.left = batch
                self._take_over(self)
