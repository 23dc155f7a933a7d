"""What lies between the clients and the server: requests and replies that are late, lost, cut, or come twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.simulation.configs import Faults
from tests.simulation.scheduler import Scheduler
from tests.simulation.server import KEYS, ObservedServer
from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError

__all__ = ('Network',)

Execute = Callable[[Call[Any]], Reply]
WAKE = KEYS['wake']


class Network:
    """Carries batches and waits. ``faults`` may be changed at any time."""

    def __init__(
        self, scheduler: Scheduler, random: Random, server: ObservedServer, execute: Execute, faults: Faults
    ) -> None:
        self._scheduler = scheduler
        self._random = random
        self._server = server
        self._execute = execute
        self.faults = faults
        self.last_arrival = 0.0  # when the last of the requests that are under way will arrive

    def happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability

    def delay(self) -> float:
        """Seconds that one way takes."""
        if self.happens(self.faults.stuck):
            return self._random.uniform(1, 60)
        if self.happens(self.faults.slow):
            return self._random.uniform(0.002, 1)
        return self._random.uniform(0.0002, 0.002)

    def send(self, batch: Batch, receive: Callable[[Sequence[Reply]], object]) -> None:
        """Carry a batch to the server and, if all goes well, the replies back."""
        faults = self.faults
        if self.happens(faults.repeat):
            later = self._random.choice((0.01, 1, 30, 200)) * self._random.random()
            self._arrive(self.delay() + later, batch, None)
        if self.happens(faults.lose):
            return
        if self.happens(faults.cut):
            self._arrive(self.delay(), batch[: self._random.randint(0, len(batch))], None)
            return
        self._arrive(self.delay(), batch, receive)

    def _arrive(self, delay: float, batch: Batch, receive: Callable[[Sequence[Reply]], object] | None) -> None:
        self.last_arrival = max(self.last_arrival, self._scheduler.now + delay)
        self._scheduler.after(delay, lambda: self._run(batch, [], receive))

    def _run(self, batch: Batch, replies: list[Reply], receive: Callable[[Sequence[Reply]], object] | None) -> None:
        """Execute the rest of a batch; others may come in between."""
        while len(replies) < len(batch):
            call = batch[len(replies)]
            known = bool(replies) and batch[len(replies) - 1].command == 'SCRIPT LOAD'
            if isinstance(call.command, Script) and not known and self.happens(self.faults.forget):
                replies.append(TorrelqueReplyError('NOSCRIPT No matching script.'))
            else:
                replies.append(self._execute(call))
            if len(replies) < len(batch) and self.happens(self.faults.split):
                delay = self.delay()
                self.last_arrival = max(self.last_arrival, self._scheduler.now + delay)
                self._scheduler.after(delay, lambda: self._run(batch, replies, receive))
                return
        if receive is not None and not self.happens(self.faults.lose):
            self._scheduler.after(self.delay(), lambda: receive(replies))

    def wait(self, seconds: float, receive: Callable[[bool], object]) -> Callable[[], None]:
        """Block on the hint. ``receive`` is told whether it came, or never called. Returns what breaks the connection.

        The server does not notice at once that a connection broke: until then it may still pop the hint for it.
        """
        connection = _Blocked(self, seconds, receive)
        if not self.happens(self.faults.lose):
            self._scheduler.after(self.delay(), connection.arrive)
        return connection.break_off


class _Blocked:
    """One wait on the server, which pops the hint for it or answers after its time."""

    def __init__(self, network: Network, seconds: float, receive: Callable[[bool], object]) -> None:
        self._network = network
        self._seconds = seconds
        self._receive = receive
        self._broken = self._noticed = self._over = False
        self._end: Callable[[], None] = lambda: None

    def arrive(self) -> None:
        if self._noticed:
            return
        scheduler, random = self._network._scheduler, self._network._random
        scheduler.after(self._seconds + random.uniform(0, 0.1), self._time_out)  # servers notice late
        end = self._network._server.wait(WAKE, lambda _: self._answer(hinted=True))
        if not self._over:
            self._end = end

    def break_off(self) -> None:
        if self._broken:
            return
        self._broken = True
        slow = self._network.happens(0.3)
        self._network._scheduler.after(self._network.delay() + slow * self._network._random.uniform(0, 3), self._notice)

    def _notice(self) -> None:
        self._noticed = self._over = True
        self._end()

    def _time_out(self) -> None:
        if not self._over:
            self._end()
            self._answer(hinted=False)

    def _answer(self, *, hinted: bool) -> None:
        self._over = True
        if not self._network.happens(self._network.faults.lose):
            self._network._scheduler.after(self._network.delay(), lambda: self._arrive_back(hinted))

    def _arrive_back(self, hinted: bool) -> None:
        if not self._broken:
            self._receive(hinted)
