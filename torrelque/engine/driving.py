"""Drives operations over a transport, in a task or without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

import anyio

from torrelque.core.protocol import Batch, Interrupted, Operation, Reply
from torrelque.errors import TorrelqueError, TorrelqueResponseTimeout, TorrelqueUsageError
from torrelque.transports.base import Rest, Transport

__all__ = ('CLOSING_TIME', 'Course', 'drive', 'finish')

T = TypeVar('T')

Execute: TypeAlias = Callable[[Batch], Awaitable[Sequence[Reply]]]

LAST_ATTEMPT = 1.0
"""Seconds that a call may take to be settled after its time to be repeated is over."""

CLOSING_TIME = 2.0
"""Seconds that shutting down may spend on settling calls and giving claims back."""


async def drive(
    transport: Transport,
    operation: Operation[T],
    *,
    at_end: bool = False,
    dedicated_timeout: float | None = None,
    begun: Batch | Rest | None = None,
) -> T:
    """Run an operation to its end; ``at_end`` of the event loop over what is left then.

    With ``dedicated_timeout`` it has connections of its own, on which the server may take so
    many seconds longer to answer. One that was ``begun`` goes on with this batch,
    or with the replies that this gives.

    Raises what the operation raises, and TorrelqueConnectionError if it was cut
    off. When cancelled, the operation is given a little time to clean up.
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
    """One attempt. The call that it settles has used up its time, so it gets little more."""
    with anyio.move_on_after(LAST_ATTEMPT):
        return await transport.execute_once(batch)
    raise TorrelqueResponseTimeout(f'no answer within {LAST_ATTEMPT:g} s')


async def finish(execute: Execute, operation: Operation[Any]) -> None:
    with suppress(StopIteration, Interrupted, TorrelqueError):
        batch = operation.throw(Interrupted())
        while True:
            try:
                replies = await execute(batch)
            except Exception as error:  # noqa: BLE001 - as above
                batch = operation.throw(Interrupted(error))
            else:
                batch = operation.send(replies)


class Course:
    """An operation under way without a task: what it waits for calls it back, and it goes on right there.

    ``take_over`` is handed what takes a task to go on, ``end`` is called at the end,
    with the error if it is no ordinary one.
    """

    __slots__ = ('_end', '_take_over', '_transport', 'abandon', 'left', 'operation')

    def __init__(
        self,
        transport: Transport,
        operation: Operation[Any],
        take_over: Callable[[Course], None],
        end: Callable[[Course, Exception | None], None],
    ) -> None:
        self._transport = transport
        self._take_over = take_over
        self._end = end
        self.operation: Operation[Any] = operation
        self.abandon: Callable[[], None] | None = None
        self.left: Batch | Rest | None = None
        """What a task that takes over has to go on with."""

    def go_on(self, replies: Sequence[Reply] | Rest | None = None) -> None:
        """Begin, without replies, or continue with those to the last batch. Raises nothing."""
        if callable(replies):
            self.left = replies
            self._take_over(self)
            return
        try:
            batch = self.operation.send(replies)  # type: ignore[arg-type]  # None begins
        except StopIteration:
            self._end(self, None)
        except Interrupted as interrupted:
            self._end(self, interrupted.cause)
        except Exception as caught:  # noqa: BLE001 - of nobody's, and the object goes on
            self._end(self, caught)
        else:
            try:
                self.abandon = self._transport.start(batch, self.go_on)
            except Exception:  # noqa: BLE001 - `execute` raises it again, to where it belongs
                self.abandon = None
            if self.abandon is None:
                self.left = batch
                self._take_over(self)
