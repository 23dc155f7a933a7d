"""Makes the blocking calls that several queue objects share, see `torrelque.core.shared_waits`; and subscriptions."""

from __future__ import annotations

import anyio
from anyio.lowlevel import checkpoint

from torrelque.core.protocol import Reply
from torrelque.core.shared_waits import Round, SharedWait, SharedWaits
from torrelque.engine.subscriptions import Subscriptions
from torrelque.transports.base import Transport

__all__ = ('WaitSharer',)

TURNS = 20
"""Number of turns of the event loop in which waits are gathered in any case. Over memory, a claim takes fewer."""


class WaitSharer:
    """Makes one blocking call for several queue objects with the same client: ``queue.share_waits(sharer)``.

    Consumers that wait for tasks of these queues then occupy one connection in all, and so do their subscriptions. A
    task that arrives while they wait takes one more round trip.

    Args:
        members: The number of queue objects.
    """

    # Each call is made by the task of one of the waits in it, over that queue object's own transport.

    def __init__(self, members: int) -> None:
        self._waits = SharedWaits(members)
        self._calls: dict[Round, _Sent] = {}
        self._hub: Subscriptions | None = None

    def share_hub(self, own: Subscriptions) -> Subscriptions:
        """Return the subscriptions for all queue objects: those of the first one that asks."""
        if self._hub is None:
            self._hub = own
        return self._hub

    async def block(self, transport: Transport, key: bytes, seconds: float) -> Reply:
        """Do what the transport does with ``BZPOPMIN key seconds``. A cancellation ends the other waits as hinted."""
        wait = SharedWait(key, transport.now() + seconds)
        while wait.state == 'waits':
            round_, leads = self._waits.join(wait)
            if leads:
                await self._lead(round_, transport)
            else:
                await self._follow(round_, wait, transport.now())
        if wait.error is not None:
            raise wait.error
        if wait.state == 'alone':
            call, left = self._waits.call([key], wait.until - transport.now())
            return await transport.block(call, left)
        return wait.reply

    async def _lead(self, round_: Round, transport: Transport) -> None:
        sent = self._calls[round_] = _Sent()
        try:
            with sent.scope:
                await self._gather(round_, sent, transport)
                call, seconds = self._waits.begin(round_, transport.now())
                self._waits.ended(round_, await transport.block(call, seconds), transport.now())
        except Exception as error:  # noqa: BLE001 - raised to each waiting queue object
            self._waits.failed(round_, error)
        finally:
            self._waits.interrupted(round_)  # unless it has ended
            del self._calls[round_]
            sent.over.set()

    async def _follow(self, round_: Round, wait: SharedWait, now: float) -> None:
        sent = self._calls[round_]
        if self._waits.is_complete(round_, now):
            sent.complete.set()
        try:
            await sent.over.wait()
        except BaseException:
            if self._waits.leave(round_, wait):
                sent.scope.cancel()
            raise

    async def _gather(self, round_: Round, sent: _Sent, transport: Transport) -> None:
        """Give other queue objects the time that a claim takes, because they may be about to wait as well."""
        for _ in range(TURNS):
            if self._waits.is_complete(round_, transport.now()):
                return
            await checkpoint()
        if transport.gathering:
            with anyio.move_on_after(transport.gathering):
                await sent.complete.wait()


class _Sent:
    """The call of one round."""

    __slots__ = ('complete', 'over', 'scope')

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.complete = anyio.Event()
        self.over = anyio.Event()
