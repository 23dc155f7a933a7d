"""Durable writes: each is followed by a WAITAOF or WAIT on the same connection, and returns when that is answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torrelque.core.checks import check_seconds
from torrelque.core.commands import ENQUEUE, REJECT, RELEASE, REQUEUE, Answer, Command, Item, Outcome
from torrelque.core.keys import Keys
from torrelque.core.protocol import Arg, Batch, Call, Interrupted, Operation, Reply, Script
from torrelque.core.scripts import ScriptSet
from torrelque.errors import (
    TorrelqueDurabilityError,
    TorrelqueReplyError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)

__all__ = ('CONFIRMED', 'Confirmer', 'Durability')

T = TypeVar('T')

CONFIRMED: frozenset[str] = frozenset(command.name for command in (ENQUEUE, RELEASE, REQUEUE, REJECT))
"""The commands that are confirmed. If a claim or a renewal is lost, that costs only time."""

LONGEST = 300.0
"""Maximum time-out, in seconds. A call and its repeats must end long before the lanes that guard them expire."""

_WRITTEN = (Outcome.NEW, Outcome.EXISTING, Outcome.REPLACED, Outcome.OK)


@dataclass(frozen=True, slots=True)
class Durability:
    """When a write counts as done. Pass it to ``Torrelque`` as ``durability``.

    Args:
        fsynced: Wait until the write is in the server's append-only file and the file is on disk. Needs
            Redis 7.2 or newer, or Valkey, with ``appendonly yes``.
        replicas: Wait until this number of replicas have the write: in memory, or on disk with ``fsynced``.
        timeout: How long the server may take to confirm a write, in seconds, above 0 and at most 300. A
            server that fsyncs once a second needs more than one second.

    Raises:
        TorrelqueTypeError: An argument has a wrong type.
        TorrelqueValueError: An argument is out of range, or neither ``fsynced`` nor ``replicas`` is given.
    """

    fsynced: bool = False
    replicas: int = 0
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.fsynced, bool):
            raise TorrelqueTypeError(f'fsynced must be True or False, got {self.fsynced!r}')
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, int):
            raise TorrelqueTypeError(f'replicas must be a whole number, got {self.replicas!r}')
        if self.replicas < 0:
            raise TorrelqueValueError(f'replicas must be 0 or more, got {self.replicas!r}')
        if not self.fsynced and not self.replicas:
            raise TorrelqueValueError('durability needs fsynced=True, replicas=1 or more, or both')
        timeout = check_seconds('timeout', self.timeout)
        if not timeout or timeout > LONGEST:
            raise TorrelqueValueError(f'timeout must be above 0 and at most {LONGEST:g} seconds, got {self.timeout!r}')

    def __str__(self) -> str:
        """Describe the condition in words."""
        on = ['the server'] if self.fsynced else []
        if self.replicas:
            on.append(f'{self.replicas} replica{"s" if self.replicas > 1 else ""}')
        return f'{"fsynced on" if self.fsynced else "received by"} {" and ".join(on)}'


class Confirmer:
    """Makes operations wait until their writes are durable.

    Args:
        durability: When a write counts as durable.
        scripts: The scripts.
        keys: The keys of the queue, or of a shard.
    """

    def __init__(self, durability: Durability, scripts: ScriptSet, keys: Keys) -> None:
        self._durability = durability
        self._scripts = scripts
        self._key: Arg = keys['pending']  # determines the server to ask
        self._possible = False

    def act(
        self, command: Command, items: Sequence[Item], operation: Operation[list[Answer]]
    ) -> Operation[list[Answer]]:
        """Run an operation, and wait until its writes are durable.

        Args:
            command: The command that the operation runs.
            items: Its items.
            operation: The operation, which returns an answer for each item.

        Returns:
            The answers. Items that were written but not confirmed have a TorrelqueDurabilityError instead.

        Raises:
            TorrelqueUsageError: The server cannot confirm such writes. Nothing was written.
        """
        if not self._possible:
            yield from self._probe()
        answers, reason = yield from self._confirmed(operation)
        if not reason:
            return answers
        return [
            self._unconfirmed(item, reason) if answer in _WRITTEN else answer
            for item, answer in zip(items, answers, strict=True)
        ]

    def _probe(self) -> Operation[None]:
        """Check that the server can confirm writes: it confirms an empty one at once. Also load the scripts."""
        # If a script were missing, its call would write nothing, and the confirmation behind it would be wasted.
        loads = [Call[Reply]('SCRIPT LOAD', args=(self._scripts[name].source,), near=self._key) for name in CONFIRMED]
        reply, *_ = yield (self._wait(replicas=0, milliseconds=1), *loads)
        if isinstance(reply, TorrelqueReplyError):
            if reply.code != 'ERR':
                raise reply
            needs = 'Redis 7.2 or newer or Valkey, with appendonly yes' if self._durability.fsynced else 'WAIT'
            raise TorrelqueUsageError(
                f'this server cannot confirm that a write is {self._durability}, which needs {needs}; '
                f'nothing was written. It answered: {reply}'
            )
        self._possible = True

    def _confirmed(self, operation: Operation[T]) -> Operation[tuple[T, str]]:
        """Run an operation with a wait after each batch that writes.

        Returns its result, and why its last write is not confirmed; empty if it is.
        """
        reason = ''
        resume: Callable[[Any], Batch] = operation.send
        value: Any = None
        while True:
            try:
                batch = resume(value)
            except StopIteration as stop:
                return stop.value, reason
            waits = any(isinstance(call.command, Script) and call.command.name != 'mint' for call in batch)
            try:
                replies = yield [*batch, self._wait(self._durability.replicas, self._milliseconds)] if waits else batch
            except (Interrupted, Exception) as error:  # noqa: BLE001 - thrown into the operation
                resume, value = operation.throw, error
            else:
                if waits:
                    *replies, confirmation = replies
                    reason = self._judge(confirmation)
                resume, value = operation.send, replies

    @property
    def _milliseconds(self) -> int:
        return math.ceil(self._durability.timeout * 1000)

    def _wait(self, replicas: int, milliseconds: int) -> Call[Reply]:
        if self._durability.fsynced:
            return Call('WAITAOF', args=(1, replicas, milliseconds), near=self._key)
        return Call('WAIT', args=(replicas, milliseconds), near=self._key)

    def _judge(self, reply: Reply) -> str:
        """Return why a write is not confirmed; empty if it is."""
        if isinstance(reply, TorrelqueReplyError):
            self._possible = False  # the server was reconfigured, or is another one
            return f'the server answered: {reply}'
        local, replicas = reply if self._durability.fsynced else (1, reply)
        if local and replicas >= self._durability.replicas:
            return ''
        missing = [] if local else ['the server itself']
        if replicas < self._durability.replicas:
            missing.append(f'{self._durability.replicas - replicas} of {self._durability.replicas} replicas')
        return f'no confirmation from {" and ".join(missing)} within {self._durability.timeout:g} s'

    def _unconfirmed(self, item: Item, reason: str) -> TorrelqueDurabilityError:
        task_id = str(item[0], 'utf-8') if isinstance(item[0], bytes) else str(item[0])
        return TorrelqueDurabilityError(
            f'task {task_id!r}: written, but not confirmed to be {self._durability}: {reason}', task_id
        )
