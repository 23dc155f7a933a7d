"""The session of a queue object with shards: a session for each shard, and one machine for all waiting consumers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import chain

from torrelque.core.commands import GIVEBACK, ClaimedTask, Command, Item, claim_item
from torrelque.core.keys import Keys
from torrelque.core.machine import Turn
from torrelque.core.merging import Ticket
from torrelque.core.protocol import Operation
from torrelque.core.session import Session
from torrelque.core.sharding.consumers import ShardedConsumers
from torrelque.core.sharding.layout import shard_of_claim
from torrelque.errors import renew

__all__ = ('ShardedSession',)


class ShardedSession:
    """The state machine of one queue object with shards. It implements `torrelque.core.machine.Machine`.

    Args:
        make: Makes the session of a shard.
        keys: The keys of the shards.
        node_of: Returns which server has a key now.
        on_generation: Called with the generation of the layout that a server has recorded; 0 for none.
        clock: Returns the time in seconds, and never goes back.
        jitter: Returns random numbers from 0 to 1.
        block_limit: The longest wait that the transport allows, in seconds.
        max_rejected: Maximum number of dead letters to keep on each shard; None keeps all.
        at_once: Whether all shards are on one server, so that their calls can be sent together.
        on_lost: Called with shards that do not answer and the error, or with shards that answer again and None.
        nonce: What the nonces of the sessions begin with.
    """

    def __init__(
        self,
        make: Callable[[int], Session],
        keys: Sequence[Keys],
        *,
        node_of: Callable[[bytes], Hashable],
        on_generation: Callable[[int], None],
        clock: Callable[[], float],
        jitter: Callable[[], float],
        block_limit: float,
        max_rejected: int | None,
        at_once: bool,
        on_lost: Callable[[Sequence[int], Exception | None], None] = lambda _shards, _error: None,
        nonce: str = '',
    ) -> None:
        self.nonce: str = nonce
        self._make = make
        self._at_once = at_once
        self._consumers = ShardedConsumers(
            node_of,
            clock,
            jitter,
            self._give_back,
            on_generation,
            block_limit,
            max_rejected,
            on_lost,
            spread=not at_once,
        )
        self._clock = clock
        self._sessions: list[Session] = []
        self._used: set[int] = set()  # shards whose sessions have something to do; checking all each time is slow
        self._total = 0
        self._closed = False
        self.resize(keys)

    def resize(self, keys: Sequence[Keys]) -> None:
        """Use these shards from now on. A shard that is no longer used is dropped when its last call has ended."""
        self._reach(len(keys))
        for shard in range(self._total, len(keys)):
            self._consumers.add(self._sessions[shard].lanes, keys[shard])
        self._consumers.truncate(len(keys))
        self._total = len(keys)

    def _reach(self, total: int) -> None:
        for shard in range(len(self._sessions), total):
            self._sessions.append(self._make(shard))

    # Callers -----------------------------------------------------------------

    @property
    def asked(self) -> bool:
        return any(self._sessions[shard].asked for shard in self._used)

    @property
    def is_idle(self) -> bool:
        return False

    def submit(self, command: Command, items: Sequence[Item], wake: Callable[[], None], shard: int = 0) -> Ticket:
        """Request a command on items of one shard, at most ``command.limit``. The ticket will hold their answers."""
        self._used.add(shard)
        self._reach(shard + 1)  # the claim may be on a shard that is no longer used
        return self._sessions[shard].submit(command, items, wake)

    def dequeue(self, want: int, deadline: float, wake: Callable[[], None]) -> Ticket:
        """Request up to ``want`` tasks, and wait until ``deadline``. The ticket will hold a list of at least one."""
        ticket = Ticket((), wake)
        self._consumers.join(ticket, want, deadline)
        return ticket

    def dequeue_nowait(self, want: int, wake: Callable[[], None]) -> Ticket:
        """Request up to ``want`` tasks that are available now. The ticket will hold a list of tasks, perhaps empty."""
        ticket = Ticket((), wake)
        self._consumers.join(ticket, want, float('inf'), stays=False)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Withdraw a request: drop what was not sent, and give back tasks that were claimed for it."""
        ticket.gone = True
        self._consumers.leave(ticket)
        if ticket.done:
            self._give_back([task for task in ticket.value or () if isinstance(task, ClaimedTask)])

    def share_waits(self, *, shared: bool) -> None:
        """Do nothing: no call is behind a wait anyway."""

    # Driver ------------------------------------------------------------------

    def poll(self) -> Turn:
        """Return what to run now, where to wait, and when to poll again at the latest."""
        now = self._clock()
        of_shard: dict[int, list[Operation[None]]] = {}
        for shard, operation in self._consumers.start():
            of_shard.setdefault(shard, []).append(self._sessions[shard].serve(operation))
            self._used.add(shard)
        for shard, last in self._leave_shards():
            of_shard.setdefault(shard, []).append(last)
        groups: list[list[Operation[None]]] = []
        dedicated: list[Operation[None]] = []
        for shard in sorted(self._used):
            session = self._sessions[shard]
            if session.asked or session.repair_at <= now:
                operations = session.begin(now, groups)
                dedicated += session.begin_dedicated()
                if operations:
                    of_shard.setdefault(shard, []).extend(operations)
        groups += self._grouped(of_shard)
        self._used = {shard for shard in self._used if not self._sessions[shard].is_quiet}
        waits = self._consumers.waits()
        if self._closed and not (groups or dedicated or any(session.is_busy for session in self._sessions)):
            drops = {at: group for at, session in enumerate(self._sessions) for group in session.drop_lanes()}
            groups = self._grouped(drops)
        until = min([self._consumers.timer(), *[self._sessions[shard].repair_at for shard in self._used]])
        return Turn(groups, dedicated, waits, until)

    def _grouped(self, of_shard: Mapping[int, list[Operation[None]]]) -> list[list[Operation[None]]]:
        """Group the calls that can be sent together: on a cluster only those of one shard."""
        if self._at_once and of_shard:
            return [list(chain.from_iterable(of_shard.values()))]
        return list(of_shard.values())

    def _leave_shards(self) -> list[tuple[int, Operation[None]]]:
        """Drop shards that are no longer used. Returns what to run for each."""
        started: list[tuple[int, Operation[None]]] = []
        while len(self._sessions) > self._total and self._sessions[-1].is_quiet:
            last = self._sessions.pop().lanes.drop()
            shard = len(self._sessions)
            self._used.discard(shard)
            if last is not None:
                started.append((shard, last))
        return started

    def close(self) -> None:
        """Fail the consumers that wait. From now on, `poll` returns only what is left to do."""
        self._closed = True
        self._consumers.close()
        for session in self._sessions:
            session.close()

    def abort(self, error: Exception) -> None:
        """Fail all requests whose calls have not begun."""
        self._consumers.abort(renew(error))
        for session in self._sessions:
            session.abort(error)

    # Within ------------------------------------------------------------------

    def _give_back(self, tasks: Iterable[ClaimedTask]) -> None:
        of_shard: dict[int, list[Item]] = {}
        for task in tasks:
            of_shard.setdefault(shard_of_claim(task.receipt.token) or 0, []).append(claim_item(task.receipt))
        for shard, items in of_shard.items():
            for first in range(0, len(items), GIVEBACK.limit):
                self.submit(GIVEBACK, items[first : first + GIVEBACK.limit], _nobody, shard)


def _nobody() -> None:
    """Wake no caller: none waits for the ticket."""
