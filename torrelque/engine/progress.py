"""Writes the progress of tasks: not every report, but the last one in each `INTERVAL`."""

from __future__ import annotations

import logging
import math
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio

from torrelque.core.commands import PROGRESS, Item, Outcome, claim_error, progress_item
from torrelque.core.models import Receipt
from torrelque.engine.dispatch import Dispatcher
from torrelque.errors import TorrelqueError, is_transient

__all__ = ('INTERVAL', 'Reporter')

INTERVAL = 0.1
"""Seconds between two writes for one task."""

KEPT = 64
"""Maximum number of claims to remember after their interval is over."""

logger: logging.Logger = logging.getLogger('torrelque')


class _Claim:
    """A claim with a recent report. ``item`` waits to be written."""

    __slots__ = ('busy', 'item', 'lost', 'next_at')

    def __init__(self) -> None:
        self.next_at = -math.inf
        self.busy = False
        self.item: Item | None = None
        self.lost = False


class Reporter:
    """Writes the reports of one queue object.

    The first report of a claim is written at once. One that follows within `INTERVAL` waits in the background for the
    end of the interval, unless a later one replaces it. The background task ends when no report waits.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._engine = dispatcher.runtime.engine
        self._home: object = None
        self._claims: dict[Receipt, _Claim] = {}
        self._most = KEPT
        self._writing = False

    def report(
        self, receipt: Receipt, value: float, total: float | None, note: str | None
    ) -> Coroutine[Any, Any, None]:
        """See `torrelque.Task.progress`. Bad arguments raise here, not where the result is awaited."""
        return self._report(receipt, progress_item(receipt, value, total, note))

    async def _report(self, receipt: Receipt, item: Item) -> None:
        self._settle_in()
        claim = self._claims.get(receipt)
        if claim is None:
            self._forget()
            claim = self._claims[receipt] = _Claim()
        if claim.lost:
            self._raise(receipt)
        if claim.busy or claim.item is not None or claim.next_at > self._now():
            await self._put_off(claim, item)
        else:
            await self._write({receipt: item}, [claim])
            if claim.lost:
                self._raise(receipt)

    def _settle_in(self) -> None:
        """Start with new state after a fork, and on another event loop."""
        self._engine.check_running()
        if self._home is not self._engine.hub:
            self._home, self._claims, self._writing = self._engine.hub, {}, False

    async def _put_off(self, claim: _Claim, item: Item) -> None:
        """Have the report written later, unless another one comes."""
        claim.item = item
        if not self._writing:
            self._writing = True
            self._engine.spawn(self._write_waiting)
        await self._engine.checkpoint()

    async def _write_waiting(self) -> None:
        """Write the waiting reports when they are due, until none is left."""
        claims = self._claims
        try:
            while waiting := {receipt: claim for receipt, claim in claims.items() if claim.item is not None}:
                now = self._now()
                due = {
                    receipt: claim.item
                    for receipt, claim in waiting.items()
                    if claim.item is not None and claim.next_at <= now and not claim.busy
                }
                if due:
                    with suppress(TorrelqueError):  # the next report of the claim raises it
                        await self._write(due, [waiting[receipt] for receipt in due])
                else:
                    times = [claim.next_at for claim in waiting.values() if claim.next_at > now]
                    until = min(times, default=now + INTERVAL)
                    await self._dispatcher.runtime.transport.pause(anyio.Event(), until)
        finally:
            if claims is self._claims:
                self._writing = False

    async def _write(self, items: Mapping[Receipt, Item], claims: Sequence[_Claim]) -> None:
        """Write reports. They are dropped if the server cannot be reached, because no handler should fail for that."""
        for claim in claims:
            claim.busy, claim.item = True, None
        try:
            answers = await self._dispatcher.many(PROGRESS, list(items.values()), None)
        finally:
            for claim in claims:
                claim.busy, claim.next_at = False, self._now() + INTERVAL
        failure: Exception | None = None
        for claim, answer in zip(claims, answers, strict=True):
            if not isinstance(answer, Exception):
                claim.lost = answer is not Outcome.OK
            elif is_transient(answer):
                logger.debug('Progress was not written: %s', answer)
            else:
                failure = answer
        if failure is not None:
            raise failure

    def _forget(self) -> None:
        """Make room for a claim. Claims with recent reports stay."""
        if len(self._claims) >= self._most:
            now = self._now()
            for receipt, claim in list(self._claims.items()):
                if claim.next_at <= now and claim.item is None and not claim.busy:
                    self._claims.pop(receipt, None)
            self._most = max(KEPT, 2 * len(self._claims))

    def _now(self) -> float:
        return self._dispatcher.runtime.transport.now()

    @staticmethod
    def _raise(receipt: Receipt) -> None:
        error = claim_error(receipt, Outcome.LOST)
        if error is not None:
            raise error
