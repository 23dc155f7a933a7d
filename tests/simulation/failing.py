"""The network where primaries fail: connections break, and servers answer that they are not to be written to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.network import Network, Told
from tests.simulation.nodes import Nodes
from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError

__all__ = ('Exchange', 'FailingNetwork', 'Receive', 'nothing')

Receive = Callable[[Sequence[Reply]], object]


class Exchange:
    """Somebody who waits for replies, and may be told that the connection ``broke``."""

    def __init__(self, receive: Receive, broke: Callable[[], object]) -> None:
        self._receive = receive
        self.broke = broke

    def __call__(self, replies: Sequence[Reply]) -> object:
        return self._receive(replies)


class FailingNetwork(Network):
    """Carries batches to the primary that there is when they arrive."""

    nodes: Nodes

    def _run(self, batch: Batch, replies: list[Reply], receive: Receive | None) -> None:
        if self.nodes.is_down():
            self._refuse(batch, receive)
        else:
            self._go_on(batch, [], receive, self.nodes.term, wrote=False)

    def _go_on(self, batch: Batch, replies: list[Reply], receive: Receive | None, term: int, *, wrote: bool) -> None:
        """Execute the rest of a batch, on the server that had the rest of it."""
        confirms = batch[-1].command == 'WAIT'
        while len(replies) < len(batch):
            if self._is_broken(term):
                self._break(receive)
                return
            call = batch[len(replies)]
            if call.command == 'WAIT':
                self._wait(batch, replies, receive, term, wrote=wrote)
                return
            before = self._server.snapshot() if confirms else {}
            replies.append(self._answer(call, replies, batch, term))
            # A repeat within the same millisecond renews the record of its lane, and changes nothing.
            recorded = isinstance(replies[-1], list) and replies[-1][:1] == [b'OK']
            wrote = wrote or (confirms and (recorded or before != self._server.snapshot()))
            if len(replies) < len(batch) and self.happens('split'):
                delay = self.delay()
                self.last_arrival = max(self.last_arrival, self._scheduler.now + delay)
                self._scheduler.after(
                    delay,
                    lambda wrote=wrote: self._go_on(batch, replies, receive, term, wrote=wrote),  # type: ignore[misc]  # mypy infers no lambda's default
                )
                return
        self._reply(batch, replies, receive, term)

    def _is_broken(self, term: int) -> bool:
        """Whether connections are, that were made when there was that primary."""
        return term != self.nodes.term

    def _answer(self, call: Call[Any], replies: Sequence[Reply], batch: Batch, term: int) -> Reply:
        known = bool(replies) and batch[len(replies) - 1].command == 'SCRIPT LOAD'
        if isinstance(call.command, Script) and not known and self.happens('forget'):
            return TorrelqueReplyError('NOSCRIPT No matching script.')
        return self._execute(call)

    def _wait(self, batch: Batch, replies: list[Reply], receive: Receive | None, term: int, *, wrote: bool) -> None:
        """As servers do: for what this connection wrote. Where it wrote nothing, all replicas have that."""
        if receive is None:  # nobody will be told
            return
        replicas, milliseconds = map(float, batch[len(replies)].args)

        def go_on(count: int | None) -> None:
            if count is None:
                self._break(receive)
            else:
                self._go_on(batch, [*replies, count], receive, term, wrote=wrote)

        if wrote and replicas:
            self.nodes.wait(milliseconds / 1000 or math.inf, go_on)
        else:
            go_on(1)

    def _reply(self, batch: Batch, replies: Sequence[Reply], receive: Receive | None, term: int) -> None:
        if receive is None:
            return
        if self.faults.lose and self._random.random() < self.nodes.settings.amid:
            self.nodes.fail(up_to_date=self._random.random() < 0.5)
        if self.happens('lose'):
            self._tell_of('the reply is lost', batch)
            return
        arrives = self._random.random() < 0.5

        def arrive() -> None:
            if arrives or not self._is_broken(term):
                receive(replies)
            else:
                self._break(receive)

        self._scheduler.after(self.delay(), arrive)

    def _refuse(self, batch: Batch, receive: Receive | None) -> None:
        """What is sent to a server that is gone, or not yet a primary."""
        answer = self._random.choice(('', 'broken', 'READONLY You can not write.', 'LOADING It is not read yet.'))
        self._tell_of(f'refused ({answer or "unheard"})', batch)
        if receive is None or not answer:
            return
        if answer == 'broken':
            self._break(receive)
            return
        replies = [_refusal(call, answer) for call in batch]
        self._scheduler.after(self.delay(), lambda: receive(replies))

    def _break(self, receive: Receive | None) -> None:
        if isinstance(receive, Exchange):
            self._scheduler.after(self.delay(), receive.broke)

    def wait(
        self, key: bytes | Sequence[bytes], seconds: float, receive: Told, behind: Call[Any] | None = None
    ) -> Callable[[], None]:
        """A wait ends, unheard, with the server on which it began."""
        term = self.nodes.term
        if self.nodes.is_down():
            return nothing

        def tell(member: bytes | None, reply: Reply) -> None:
            if term == self.nodes.term:
                receive(member, reply)

        return super().wait(key, seconds, tell, behind)

    @property
    def term(self) -> int:
        return self.nodes.term

    def run_behind(self, call: Call[Any], term: int) -> Reply:
        """It goes with the server; or that is a replica by now, and says so."""
        if term != self.nodes.term:
            return TorrelqueReplyError('READONLY You can not write.')
        return super().run_behind(call, term)


def _refusal(call: Call[Any], answer: str) -> Reply:
    """A replica loads scripts all the same, and is not waited with."""
    if answer.startswith('READONLY') and call.command == 'SCRIPT LOAD':
        return b'a digest'
    if answer.startswith('READONLY') and call.command == 'WAIT':
        return TorrelqueReplyError('ERR WAIT cannot be used with replica instances.')
    return TorrelqueReplyError(answer)


def nothing() -> None:
    """Breaks a connection that there is not."""
