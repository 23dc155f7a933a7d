"""What crosses the border between the core and the transports.

An *operation* is a generator. It yields a *batch* of calls, is sent their
replies in the same order, and returns its result::

    def size(keys: Keys) -> Operation[int]:
        return (yield from Call('LLEN', (keys.pending,), parse=as_int))

Whoever drives it sends the batch to a server. If the outcome of a batch cannot
be known any more, the driver throws :class:`Interrupted` in; the operation may
yield further batches to clean up, and ends by raising it.
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

__all__ = ('Arg', 'Batch', 'Call', 'Interrupted', 'Operation', 'Reply', 'Script', 'as_is', 'blocking_drive', 'resume')

T = TypeVar('T')

NEEDED = 'Redis 6.2 or newer, Valkey or KeyDB'
UNKNOWN_COMMAND = re.compile(r'Unknown (Redis )?command called from')
"""In a server's answer to a script that uses a command which it does not know."""

VERSION = re.compile(r'(?m)^((?:redis|valkey)_version):([\w.-]+)')

Arg: TypeAlias = bytes | str | int
"""A word of a command. Times are sent as text that the caller formatted."""

Reply: TypeAlias = Any
"""What a server answers: bytes, int, None, a list of these, or a TorrelqueReplyError, a value here, not raised.

Each call's parser knows which; a union would make every parser restate it.
"""

Batch: TypeAlias = 'Sequence[Call[Any]]'
"""Calls that are sent together, in order, on one connection."""

Operation: TypeAlias = Generator[Batch, Sequence[Reply], T]


class Interrupted(BaseException):
    """Thrown into an operation whose last batch has an unknown outcome.

    ``cause`` is the error to tell the callers, or None when the engine itself
    is being shut down. Not an ``Exception``, so that no handler
    of ordinary errors swallows it.
    """

    def __init__(self, cause: Exception | None = None) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Script:
    """A server-side script: its verb's ``name``, ``source`` and the logical names of its ``keys``."""

    name: str
    source: str
    keys: tuple[str, ...]
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sha', hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


def as_is(reply: Reply) -> Reply:
    return reply


@dataclass(slots=True)  # not frozen, as that makes it twice as slow to make; nobody changes one
class Call(Generic[T]):
    """One command, or one call of a script.

    ``command`` is a :class:`Script` or a command's name (of one or more words);
    ``parse`` makes the result of a reply that is no error. Iterating runs it as
    an operation: a script that the server does not know is loaded, here and
    nowhere else. ``near`` is, for a call without keys, the key whose server on a
    cluster is to be asked; None for any.
    """

    command: Script | str
    keys: tuple[Arg, ...] = ()
    args: tuple[Arg, ...] = ()
    parse: Callable[[Reply], T] = as_is
    near: Arg | None = None

    @property
    def routing_key(self) -> Arg | None:
        """The key that tells which server of a cluster to ask; None if any will do."""
        return self.keys[0] if self.keys else self.near

    def words(self) -> list[Arg]:
        """The command as it goes over the wire."""
        if isinstance(self.command, Script):
            return ['EVALSHA', self.command.sha, len(self.keys), *self.keys, *self.args]
        return [*self.command.split(), *self.keys, *self.args]

    def words_with_source(self) -> list[Arg]:
        """Like :meth:`words`, but as an EVAL that needs no script to be loaded before."""
        if isinstance(self.command, Script):
            return ['EVAL', self.command.source, len(self.keys), *self.keys, *self.args]
        return self.words()

    def __iter__(self) -> Operation[T]:
        (reply,) = yield (self,)
        if isinstance(reply, TorrelqueReplyError):
            reply = yield from self._after_error(reply)
        return self.parse(reply)

    def _after_error(self, reply: Reply) -> Operation[Reply]:
        """The reply after all, if what the first error was about can be changed."""
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
    """Whether the server answers that it does not know the script."""
    return isinstance(reply, TorrelqueReplyError) and reply.code == 'NOSCRIPT'


def _newer(counters: Arg) -> TorrelqueNewerError:
    """What to say of a queue with features that this version does not know. Its name begins those of its keys."""
    key = counters.decode() if isinstance(counters, bytes) else str(counters)
    name = re.sub(r'^\{(.+?)(:\d+)?\}$', r'\1', key.rpartition(':')[0])
    return TorrelqueNewerError(f'queue {name!r} uses features of a later version: upgrade this client')


def _explained(refusal: TorrelqueReplyError) -> TorrelqueReplyError:
    """Why a script was not loaded. What passes by itself needs no explanation."""
    if not is_transient(refusal):
        refusal.args = (f'SCRIPT LOAD was refused, which every call needs: {refusal}',)
    return refusal


def _outdated(info: Reply, answer: TorrelqueReplyError) -> TorrelqueReplyError:
    """What to say of a server that does not know a command of a script, with its version if it tells that."""
    told = VERSION.findall(info.decode(errors='replace')) if isinstance(info, bytes) else []
    versions = ', '.join(f'{name} {value}' for name, value in told)
    server = f'this server ({versions})' if versions else 'this server'
    answer.args = (
        f'queues need {NEEDED}, and {server} does not know a command that they use, or has it disabled: {answer}',
    )
    return answer


def resume(operation: Operation[T], batch: Batch, *, interrupted: bool = False) -> Operation[T]:
    """Go on with an operation that has yielded ``batch``, which is sent, perhaps again; or interrupt it there."""
    try:
        if interrupted:
            batch = operation.throw(Interrupted())
        while True:
            try:
                replies = yield batch
            except (Interrupted, Exception) as error:  # noqa: BLE001 - it is the operation's
                batch = operation.throw(error)
            else:
                batch = operation.send(replies)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # what a generator returns is typed Any by the language


def blocking_drive(operation: Operation[T], execute: Callable[[Batch], Sequence[Reply]]) -> T:
    """Run an operation to its end over a plain function: all the I/O there is, without an event loop.

    ``execute`` may raise TorrelqueConnectionError: the operation is interrupted,
    may clean up through ``execute``, and the error is raised.
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
        return stop.value  # type: ignore[no-any-return]  # what a generator returns is typed Any by the language
    except Interrupted as interrupted:
        raise interrupted.cause or TorrelqueError('the operation was interrupted') from None
