"""Drives operations over a transport, and keeps the tasks that do so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

import anyio

from torrelque.core.protocol import Batch, Interrupted, Operation, Reply
from torrelque.errors import TorrelqueError, TorrelqueResponseTimeout, TorrelqueUsageError
from torrelque.transports.base import Rest, Transport
from torrelque.transports.oneshot import OneShot

__all__ = ('CLOSING_TIME', 'LAST_ATTEMPT', 'SPARE_DRIVERS', 'Drivers', 'drive', 'finish')

T = TypeVar('T')

Job: TypeAlias = Callable[[], Awaitable[None]]
Execute: TypeAlias = Callable[[Batch], Awaitable[Sequence[Reply]]]

LAST_ATTEMPT = 1.0
"""How long settling a call may take once there is no time left to repeat it, in seconds."""

CLOSING_TIME = 2.0
"""How long shutting down may take to settle calls and give claims back, in seconds."""

SPARE_DRIVERS = 8
"""Maximum number of idle drivers. Starting a task costs more than a call, but each holds a few kilobytes."""


async def drive(
    transport: Transport,
    operation: Operation[T],
    *,
    at_end: bool = False,
    dedicated_timeout: float | None = None,
    begun: Batch | Rest | None = None,
) -> T:
    """Run an operation to its end. If cancelled, the operation gets up to `CLOSING_TIME` to clean up.

    Args:
        transport: The transport.
        operation: The operation.
        at_end: Whether the event loop is ending, so that the transport may have to use a new connection.
        dedicated_timeout: Use dedicated connections, on which the server may take this number of seconds longer to
            answer; None uses the shared one.
        begun: The batch that an operation in progress has yielded, or a function that returns the replies to it;
            None starts the operation.

    Returns:
        What the operation returns.

    Raises:
        TorrelqueConnectionError: The connection was lost, and the operation could not recover.
        Exception: The operation raised it.
    """
    execute: Execute = transport.execute_at_end if at_end else transport.execute
    if dedicated_timeout is not None:
        execute = partial(transport.execute_dedicated, timeout=dedicated_timeout)
    interrupted = False
    try:
        batch = next(operation) if begun is None else begun
        while True:
            try:
                if callable(batch):
                    replies = await batch()
                else:
                    replies = await (_execute_once(transport, batch) if interrupted and not at_end else execute(batch))
                interrupted = False
            except anyio.get_cancelled_exc_class():
                with anyio.move_on_after(CLOSING_TIME, shield=True):
                    await finish(transport.execute if dedicated_timeout is None else execute, operation)
                raise
            except TorrelqueUsageError as error:  # nothing was sent
                batch = operation.throw(error)
            except Exception as error:  # noqa: BLE001 - a lost connection, or anything else: the outcome is unknown
                interrupted = True
                batch = operation.throw(Interrupted(error))
            else:
                batch = operation.send(replies)
    except StopIteration as stop:
        result: T = stop.value
        return result
    except Interrupted as interruption:
        raise interruption.cause or TorrelqueError('the operation was interrupted') from None


async def _execute_once(transport: Transport, batch: Batch) -> Sequence[Reply]:
    """Send a batch once. It settles a call whose time is used up, so it gets little more."""
    with anyio.move_on_after(LAST_ATTEMPT):
        return await transport.execute_once(batch)
    raise TorrelqueResponseTimeout(f'no answer within {LAST_ATTEMPT:g} s')


async def finish(execute: Execute, operation: Operation[Any]) -> None:
    """Interrupt an operation, and let it clean up."""
    with suppress(StopIteration, Interrupted, TorrelqueError):
        batch = operation.throw(Interrupted())
        while True:
            try:
                replies = await execute(batch)
            except Exception as error:  # noqa: BLE001 - the outcome is unknown, as in `drive`
                batch = operation.throw(Interrupted(error))
            else:
                batch = operation.send(replies)


class _Driver:
    """An idle task that waits for its next job."""

    __slots__ = ('_handed', '_job')

    def __init__(self, handed: OneShot) -> None:
        self._handed = handed
        self._job: Job | None = None

    def hand(self, job: Job | None) -> None:
        self._job = job
        self._handed.set()

    async def next(self) -> Job | None:
        await self._handed.wait()
        return self._job


class Drivers:
    """A pool of tasks that take one job after another.

    Args:
        spawn: Starts a task.
        make_once: Makes an event for one waiting task.
    """

    def __init__(
        self,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        make_once: Callable[[], OneShot],
    ) -> None:
        self._spawn = spawn
        self._make_once = make_once
        self._idle: list[_Driver] = []

    def start(self, job: Job) -> None:
        """Have an idle task do a job, or start one."""
        if self._idle:
            self._idle.pop().hand(job)
        else:
            self._spawn(partial(self._run, job))

    def dismiss(self) -> None:
        """End the idle tasks."""
        idle, self._idle = self._idle, []
        for driver in idle:
            driver.hand(None)

    async def _run(self, job: Job | None) -> None:
        """Do one job after another. End if there is none and enough tasks are idle."""
        while job is not None:
            await job()
            job = None
            if len(self._idle) < SPARE_DRIVERS:
                driver = _Driver(self._make_once())
                self._idle.append(driver)
                job = await driver.next()
