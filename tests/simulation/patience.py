"""Clients that outlast a fail-over, as `torrelque.transports.failover` does it for event loops; some confirm writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.clients import SCRIPTS, Client, Run, Waiting
from tests.simulation.failing import Exchange, FailingNetwork
from tests.simulation.server import KEYS
from torrelque.core.durability import Confirmer, Durability
from torrelque.core.machine import Wait
from torrelque.core.protocol import Batch, Interrupted, Reply
from torrelque.core.session import Session
from torrelque.core.sharding.session import ShardedSession
from torrelque.errors import TorrelqueConnectionError, is_unavailable
from torrelque.transports.failover import BACKOFF
from torrelque.transports.repeating import LOAD

__all__ = ('PatientClient',)

LONGEST = 120.0
"""Seconds that a call takes at most, with a pause of its client and what is stuck."""

MINTS_A_CALL = 3


class PatientClient(Client):
    """``confirms``: whether its writes are waited for; ``budget``: seconds for which it repeats calls."""

    budget = 0.0
    _waits_fail_since: float | None = None
    _failed_waits = 0

    def make_session(self, nonce: str) -> Session | ShardedSession:
        settings = self.world.config.failovers
        assert settings is not None
        self.budget = self.random.choice(settings.patience)
        self.confirms = self.random.random() < settings.confirming
        self.durability = Durability(replicas=1, timeout=self.random.choice((0.2, 1.0, 5.0)))
        session = super().make_session(nonce)
        if self.confirms:
            assert isinstance(session, Session)
            session._confirmer = Confirmer(self.durability, SCRIPTS, KEYS)
        return session

    def may_be_told(self, error: Exception) -> bool:
        """When there is no time left to repeat a call, its caller is told why it failed.

        A lane that is lost again and again is made no more than three times for one call.
        """
        nodes = self.world.nodes
        assert nodes is not None
        if 'NOLANE' in str(error):
            return nodes.failed_since(self.world.scheduler.now - LONGEST) >= MINTS_A_CALL - 1
        return is_unavailable(error)

    def refused(self) -> None:
        """Servers told that they are not, or not yet, those to ask."""

    def back_off(self, tries: int) -> float:
        return BACKOFF.pause(tries, self.random.random)

    def make_run(self, operation: Any) -> Run:  # noqa: ANN401 - an operation of anything
        return _PatientRun(self, operation)

    def make_waiting(self, wait: Wait) -> Waiting:
        return _PatientWaiting(self, wait)

    def waited(self) -> None:
        """A wait ended as it should."""
        self._waits_fail_since = None
        self._failed_waits = 0

    def gives_up(self) -> bool:
        """Whether waits have failed for so long that who waits is told."""
        now = self.world.scheduler.now
        if self._waits_fail_since is None:
            self._waits_fail_since = now
        return now - self._waits_fail_since >= self.budget

    def pause_of_waits(self) -> float:
        self._failed_waits += 1
        return self.back_off(self._failed_waits)


class _PatientWaiting(Waiting):
    """While the server fails over it is as if something had come, after a pause."""

    def __init__(self, client: PatientClient, wait: Wait) -> None:
        super().__init__(client, wait)
        self._patient = client
        nodes = client.world.nodes
        if nodes is not None and nodes.is_down(wait.key):
            client.later(client.random.random() * 0.01, self.fail)

    def _ended(self, member: bytes | None, reply: Reply) -> None:
        if self in self._client._waits:
            self._patient.waited()
        super()._ended(member, reply)

    def fail(self) -> None:
        if self not in self._client._waits:
            return
        self._patient.refused()
        if self._patient.gives_up():
            super().fail()
            return
        self.break_off()
        self._patience.cancel()
        self._client.world.tell(f'{self._client.nonce} lost the connection of its wait, and looks')
        self._patience = self._client.later(self._patient.pause_of_waits(), self._look_again)
        self.break_off = lambda: None

    def _look_again(self) -> None:
        if self in self._client._waits:
            self.is_over()
            self._then.ended(b'')
            self._client.poke()


class _PatientRun(Run):
    """An operation whose batches are sent again until they get through, or there is no time left."""

    def _send(self, batch: Batch, retries: int) -> None:
        _Patience(self, batch).send()


class _Patience:
    """One batch, and what of it was answered."""

    def __init__(self, run: _PatientRun, batch: Batch) -> None:
        client = run.client
        assert isinstance(client, PatientClient)
        self._client = client
        self._run = run
        self._round = run.round
        self._batch = batch
        self._replies: list[Reply] = [None] * len(batch)
        self._places: Sequence[int] = range(len(batch))
        self._dedicated = batch[-1].command == 'WAIT'
        self._until = client.world.scheduler.now + client.budget
        self._tries = 0
        self._attempt: object = None

    def send(self) -> None:
        client, network = self._client, self._client.world.network
        assert isinstance(network, FailingNetwork)
        if self._run.round != self._round:
            return
        self._tries += 1
        self._attempt = this = object()

        def once(action: Callable[[], object]) -> None:
            client.do(lambda: action() if self._run.round == self._round and self._attempt is this else None)

        exchange = Exchange(
            lambda replies: once(lambda: self._receive(replies)), lambda: once(lambda: self._again('broken'))
        )
        network.send([self._batch[place] for place in self._places], exchange)
        patience = client.random.choice((0.5, 2, 5)) if network.faults.lose else 30
        patience += client.durability.timeout if self._dedicated else 0
        self._run.timer = client.later(patience, lambda: once(lambda: self._again('no answer')))

    def _receive(self, replies: Sequence[Reply]) -> None:
        client = self._client
        for place, reply in zip(self._places, replies, strict=True):
            self._replies[place] = reply
        failed = [place for place in self._places if is_unavailable(self._replies[place])]
        if failed:
            client.refused()
        if not failed:
            self._run.step(self._run.operation.send, self._replies)
        elif self._pauses():
            if not self._dedicated:
                loads = {place for place in range(failed[-1]) if self._batch[place].command == LOAD}
                self._places = sorted(loads.union(failed))
        else:
            self._run.step(self._run.operation.send, self._replies)

    def _again(self, why: str) -> None:
        if not self._pauses():
            self._run.step(self._run.operation.throw, Interrupted(TorrelqueConnectionError(why)))

    def _pauses(self) -> bool:
        """Whether there is time to try again; then that is what will happen."""
        client = self._client
        pause = client.back_off(self._tries)
        if client.world.scheduler.now + pause > self._until:
            return False
        if self._run.timer is not None:
            self._run.timer.cancel()
        self._attempt = None  # what comes now comes too late
        self._run.timer = client.later(pause, self.send)
        return True
