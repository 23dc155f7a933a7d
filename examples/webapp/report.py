"""The background task: a report is made, which takes a while and may fail a few times before."""

from __future__ import annotations

import asyncio
import random

from torrelque import Task


class ReportMaker:
    """The worker's handler. Each attempt takes ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __call__(self, task: Task) -> str:
        await asyncio.sleep(self._seconds)
        if task.attempt <= task.data['failures']:
            raise ConnectionError('the archive does not answer')
        return f'{random.randint(2, 99)} pages'
