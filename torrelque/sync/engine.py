"""The engine of a queue object whose callers are threads."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from torrelque.core.combinators import together
from torrelque.core.commands import Answer, ClaimedTask, Command, Item
from torrelque.core.machine import Machine
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Batch, Operation, Reply
from torrelque.core.waiters import FIRST_LOOK
from torrelque.engine.background import Cancellable
from torrelque.engine.driving import LAST_ATTEMPT
from torrelque.engine.engine import Engine
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueResponseTimeout, TorrelqueTimeoutError
from torrelque.sync.crew import Crew, Due, Job, drive
from torrelque.sync.subscriptions import BlockingSubscriptions
from torrelque.sync.suspending import ForkLock, OutOfTime, Pause, limited, limits, perform, suspend, wait_for
from torrelque.transports.base import Transport

__all__ = ('BlockingEngine',)

T = TypeVar('T')


class BlockingEngine(Engine):
    """Runs a queue object's session on the threads of its callers.

    Its coroutines suspend only for what `run_blocking` waits for.
    """

    def __init__(self, transport: Transport, make_session: Callable[[], Machine], confirm_timeout: float = 0.0) -> None:
        super().__init__(transport, make_session, confirm_timeout)
        self.turns: int = 0
        self._crews: dict[int, Crew] = {}
        self._making = ForkLock()
        self._reported = ''

    # Life ------------------------------------------------------------------------------------------------------------

    @property
    def crew(self) -> Crew:
        """The crew of this process."""
        pid = os.getpid()
        crew = self._crews.get(pid)
        if crew is None or crew.broken is not None:
            with self._making:
                crew = self._crews.get(pid)
                if crew is None or crew.broken is not None:
                    for parents in [each for process, each in self._crews.items() if process != pid]:
                        parents.close_bell()  # its copy in this process
                    crew = Crew(
                        self._make_session(),
                        send=self._send,
                        block=self._transport.block,
                        run=self.run_blocking,
                        begin_turn=self._begin_turn,
                        report=self._report,
                    )
                    self._crews = {pid: crew}
        return crew

    def _begin_turn(self) -> None:
        self.turns += 1

    def close(self) -> None:
        """Fail callers that wait for tasks, finish the calls in flight, and give the lanes back. Safe to repeat."""
        crew = self._crews.pop(os.getpid(), None)
        if crew is not None:
            crew.close()

    # Calls -----------------------------------------------------------------------------------------------------------

    def run_blocking(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run one of the queue's coroutines to its end."""
        return perform(coroutine, self._wait)

    def _wait(self, what: Due | Pause) -> None:
        if isinstance(what, Due):
            what.caller.crew.work_until(*what)
        else:
            wait_for(what)

    async def run(self, operation: Operation[T]) -> T:
        result: T = drive(Job(operation), self._send)
        return result

    async def read(self, make: Callable[[], Operation[T]], node: Hashable) -> T:
        return await self.run(make())

    async def run_each(self, operations: Sequence[Operation[T]]) -> list[T]:
        if self._transport.on_cluster:
            return [await self.run(operation) for operation in operations]
        results = await self.run(together(operations))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results  # type: ignore[return-value]  # none of them is an exception

    async def run_all(self, functions: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run functions concurrently. All of them make their requests before this thread works on any."""
        waiting: deque[tuple[Coroutine[Any, Any, None], Any]] = deque()

        def resume(coroutine: Coroutine[Any, Any, None], value: Any = None) -> None:  # noqa: ANN401 - as sent in
            with suppress(StopIteration):
                waiting.append((coroutine, coroutine.send(value)))

        for function in functions:
            resume(function())
        while waiting:
            coroutine, what = waiting.popleft()
            resume(coroutine, await suspend(what))

    @contextmanager
    def limit(self, deadline: float, late: Callable[[], TorrelqueTimeoutError]) -> Iterator[None]:
        try:
            with limited(deadline + FIRST_LOOK):
                yield
        except OutOfTime as error:
            raise late() from error.__context__
        except TorrelqueConnectionError as error:  # perhaps because another caller ran out of time
            if time.monotonic() < deadline:
                raise
            raise late() from error

    async def rest(self, seconds: float) -> None:
        await suspend(Pause(time.monotonic() + seconds))

    async def checkpoint(self) -> None:
        """Do nothing, because other threads run anyway."""

    async def submit(self, command: Command, items: Sequence[Item], shard: int = 0) -> list[Answer]:
        answers: list[Answer] = await self._request(lambda session, wake: session.submit(command, items, wake, shard))
        return answers

    def fire_and_forget(self, command: Command, items: Sequence[Item], shard: int = 0) -> None:
        with suppress(TorrelqueError):
            self.run_blocking(self.submit(command, items, shard))

    async def dequeue(self, want: int, deadline: float) -> list[ClaimedTask]:
        with self.limit(deadline, lambda: TorrelqueTimeoutError('no task in time')):
            tasks: list[ClaimedTask] = await self._request(lambda session, wake: session.dequeue(want, deadline, wake))
            return tasks

    async def dequeue_nowait(self, want: int) -> list[ClaimedTask]:
        tasks: list[ClaimedTask] = await self._request(lambda session, wake: session.dequeue_nowait(want, wake))
        return tasks

    def check_running(self) -> None:
        """Do nothing, because the engine works in any thread."""

    def spawn(self, function: Callable[[], Coroutine[Any, Any, None]]) -> Cancellable:
        """Let the next idle caller run a function."""
        chores = self.crew.chores
        chores.append(function)
        return _Chore(chores, function)

    def step_soon(self) -> None:
        self.crew.look_again()

    @property
    def nonce(self) -> str:
        return self.crew.session.nonce

    @property
    def hub(self) -> BlockingSubscriptions:
        return BlockingSubscriptions(self._transport)

    async def _request(self, ask: Callable[[Machine, Callable[[], None]], Ticket]) -> Any:  # noqa: ANN401 - a value
        due = self.crew.ask(ask)
        await suspend(due)
        if due.ticket.error is not None:
            raise due.ticket.error
        return due.ticket.value

    def _send(self, job: Job, batch: Batch) -> Sequence[Reply]:
        if job.interrupted:  # it settles a call whose time is used up
            try:
                with limited(min(time.monotonic(), limits.until) + LAST_ATTEMPT):
                    return perform(self._transport.execute_once(batch), wait_for)
            except OutOfTime:
                raise TorrelqueResponseTimeout(f'no answer within {LAST_ATTEMPT:g} s') from None
        if job.dedicated:
            coroutine = self._transport.execute_dedicated(batch, self._confirm_timeout)
        else:
            coroutine = self._transport.execute(batch)
        return perform(coroutine, wait_for)


class _Chore:
    """A function that was spawned."""

    def __init__(
        self, chores: deque[Callable[[], Coroutine[Any, Any, None]]], function: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._chores = chores
        self._function = function

    def cancel(self) -> None:
        with suppress(ValueError):
            self._chores.remove(self._function)
