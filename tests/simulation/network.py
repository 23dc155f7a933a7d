"""What lies between the clients and the server: requests and replies that are late, lost, cut, or come twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.choices import Choices, Dice
from tests.simulation.configs import Faults
from tests.simulation.scheduler import Scheduler
from tests.simulation.server import ObservedServer
from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError

__all__ = ('Network', 'name_of')

Execute = Callable[[Call[Any]], Reply]
Told = Callable[['bytes | None', Reply], object]
"""Receives the hint, if one came, or its key, of a wait on several, and the reply to the call behind the wait."""

LATE = 0.1
"""Seconds that a server may take to notice that the time of a wait is over."""

ANCIENT = 1000.0
"""Seconds: longer than a lane lasts after it was last used."""


def name_of(call: Call[Any]) -> str:
    return call.command if isinstance(call.command, str) else call.command.name


class Network:
    """Carries batches and waits. ``faults`` may be changed at any time."""

    def __init__(
        self,
        scheduler: Scheduler,
        dice: Dice,
        choices: Choices,
        server: ObservedServer,
        execute: Execute,
        tell: Callable[[str], object] | None,
        faults: Faults,
    ) -> None:
        self._scheduler = scheduler
        self._random = dice
        self._choices = choices
        self._server = server
        self._execute = execute
        self._tell = tell
        self.faults = faults
        self.last_arrival = 0.0  # when the last of the requests that are under way will arrive

    def happens(self, fault: str) -> bool:
        """Whether this fault, by its name, befalls what is done now."""
        return self._choices.happens(getattr(self.faults, fault), fault)

    def delay(self) -> float:
        """Seconds that one way takes."""
        if self.happens('stuck'):
            return self._random.uniform(1, 60)
        if self.happens('slow'):
            return self._random.uniform(0.002, 1)
        return self._random.uniform(0.0002, 0.002)

    def send(self, batch: Batch, receive: Callable[[Sequence[Reply]], object]) -> None:
        """Carry a batch to the server and, if all goes well, the replies back."""
        delay = self.delay()
        if self.happens('lose'):
            self._tell_of('lost', batch)
        elif self.happens('cut'):
            part = batch[: self._random.randint(0, len(batch))]
            self._tell_of('cut off after', part)
            self._arrive(delay, part, None)
        else:
            self._arrive(delay, batch, receive)
        if self.happens('repeat'):
            later = self.delay() + self._random.choice((0.01, 1, 30, 200)) * self._random.random()
            self._tell_of(f'to come again {later:.3f} later', batch)
            self._arrive(later, batch, None)
        if self.happens('ancient'):
            later = ANCIENT + 100 * self._random.random()
            self._tell_of(f'to come again {later:.3f} later', batch)
            self._arrive(later, batch, None)

    def _tell_of(self, what: str, batch: Batch) -> None:
        if self._tell is not None:
            self._tell(f'{what}: {", ".join(f"{name_of(call)} {call.args}" for call in batch)}')

    def _arrive(self, delay: float, batch: Batch, receive: Callable[[Sequence[Reply]], object] | None) -> None:
        self.last_arrival = max(self.last_arrival, self._scheduler.now + delay)
        self._scheduler.after(delay, lambda: self._run(batch, [], receive))

    def _run(self, batch: Batch, replies: list[Reply], receive: Callable[[Sequence[Reply]], object] | None) -> None:
        """Execute the rest of a batch; others may come in between."""
        while len(replies) < len(batch):
            call = batch[len(replies)]
            known = bool(replies) and batch[len(replies) - 1].command == 'SCRIPT LOAD'
            if isinstance(call.command, Script) and not known and self.happens('forget'):
                replies.append(TorrelqueReplyError('NOSCRIPT No matching script.'))
            else:
                replies.append(self._execute(call))
            if len(replies) < len(batch) and self.happens('split'):
                delay = self.delay()
                self.last_arrival = max(self.last_arrival, self._scheduler.now + delay)
                self._scheduler.after(delay, lambda: self._run(batch, replies, receive))
                return
        if receive is None:
            return
        delay = self.delay()
        if self.happens('lose'):
            self._tell_of('the reply is lost', batch)
        else:
            self._scheduler.after(delay, lambda: receive(replies))

    def wait(
        self, key: bytes | Sequence[bytes], seconds: float, receive: Told, behind: Call[Any] | None = None
    ) -> Callable[[], None]:
        """Block on a hint, or on those of several queues. Returns what breaks the connection.

        ``receive`` is called with the hint, or with None if none came in time. If the connection breaks, it may never
        be called.

        The server does not notice at once that a connection broke: until then it may still pop the hint for it, and
        run the call ``behind`` the wait, and pass on its reply, too.
        """
        connection = _Blocked(self, key, seconds, receive, behind)
        delay = self.delay()
        if behind is not None:
            self.last_arrival = max(self.last_arrival, self._scheduler.now + delay + seconds + LATE)
        if not self.happens('lose'):
            self._scheduler.after(delay, connection.arrive)
        return connection.break_off

    def run_behind(self, call: Call[Any], _term: int) -> Reply:
        """The reply to a call behind a wait that began in that term, if there are any terms."""
        if self.happens('forget'):
            return TorrelqueReplyError('NOSCRIPT No matching script.')
        return self._execute(call)

    @property
    def term(self) -> int:
        return 0


class _Blocked:
    """One wait on the server, which pops the hint for it or answers after its time."""

    def __init__(
        self,
        network: Network,
        key: bytes | Sequence[bytes],
        seconds: float,
        receive: Told,
        behind: Call[Any] | None,
    ) -> None:
        self._behind = behind
        self._term = network.term
        self._network = network
        self._key = key
        self._seconds = seconds
        self._receive = receive
        self._broken = self._noticed = self._over = False
        self._end: Callable[[], None] = lambda: None

    def arrive(self) -> None:
        if self._noticed:
            return
        scheduler = self._network._scheduler
        scheduler.after(self._seconds + self._late(), self._time_out)
        which = 1 if isinstance(self._key, bytes) else 0
        end = self._network._server.wait(self._key, lambda reply: self._answer(reply[which]))
        if not self._over:
            self._end = end

    def _late(self) -> float:
        """How long the server takes to notice the end: ends of one moment it notices at once."""
        if isinstance(self._key, bytes):
            return self._network._random.uniform(0, LATE)
        return LATE - (self._network._scheduler.now + self._seconds) % LATE

    def break_off(self) -> None:
        if self._broken:
            return
        self._broken = True
        random = self._network._random
        slow = random.random() < 0.3
        self._network._scheduler.after(self._network.delay() + slow * random.uniform(0, 3), self._notice)

    def _notice(self) -> None:
        self._noticed = self._over = True
        self._end()

    def _time_out(self) -> None:
        if not self._over:
            self._end()
            self._answer(None)

    def _answer(self, member: bytes | None) -> None:
        self._over = True
        if self._behind is None:
            self._reply(member, None)
        else:  # others may come in between
            delay = self._network.delay() if self._network.happens('split') else 0
            self._network._scheduler.after(delay, lambda: self._go_on(member))

    def _go_on(self, member: bytes | None) -> None:
        assert self._behind is not None
        if not self._noticed:
            self._reply(member, self._network.run_behind(self._behind, self._term))

    def _reply(self, member: bytes | None, reply: Reply) -> None:
        delay = self._network.delay()
        if not self._network.happens('lose'):
            self._network._scheduler.after(delay, lambda: self._arrive_back(member, reply))

    def _arrive_back(self, member: bytes | None, reply: Reply) -> None:
        if not self._broken:
            self._receive(member, reply)
