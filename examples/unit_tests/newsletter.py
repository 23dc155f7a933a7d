"""A small application with a queue: it asks new subscribers to confirm, and reminds those who do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torrelque import Reject, Task, Torrelque, Worker, retry

REMINDER_DELAY = 15 * 60
MAIL_RETRY = retry.exponential(base=60, factor=2, attempts=4, jitter=0)


class Newsletter:
    """``mail(address, text)`` sends a mail, or raises ConnectionError."""

    def __init__(self, queue: Torrelque, mail: Callable[[str, str], None]) -> None:
        self._queue = queue
        self._mail = mail
        self._unconfirmed: set[str] = set()

    async def subscribe(self, address: str) -> None:
        self._unconfirmed.add(address)
        await self._queue.enqueue({'to': address, 'text': 'Please confirm'})
        await self._queue.enqueue({'to': address, 'text': 'Did you forget?'}, delay=REMINDER_DELAY)

    def confirm(self, address: str) -> None:
        self._unconfirmed.discard(address)

    def make_worker(self, **options: Any) -> Worker:  # noqa: ANN401 - those of Worker
        return Worker(self._queue, self._send, concurrency=4, retry=MAIL_RETRY, **options)

    async def _send(self, task: Task) -> None:
        address = task.data['to']
        if '@' not in address:
            raise Reject(f'{address} is no address')
        if address in self._unconfirmed:
            self._mail(address, task.data['text'])
