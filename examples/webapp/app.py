"""The application: starts tasks, and pushes their states to the page as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import anyio
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from torrelque import Torrelque, TorrelqueLookupError, TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.retry import RetryPolicy

PAGE = Path(__file__).parent / 'page'
MOST_FAILURES = 5
MOST_FOLLOWED = 100


class Tasks(RequestHandler):
    """``POST /tasks`` starts a task; the answer is its id."""

    def initialize(self, queue: Torrelque, **_: object) -> None:
        self.queue = queue

    async def post(self) -> None:
        name = self.get_body_argument('name')
        failures = self.get_body_argument('failures', '0')
        if not 0 < len(name) <= 100:
            raise HTTPError(400, reason='the name must have from 1 to 100 characters')
        if failures not in map(str, range(MOST_FAILURES + 1)):
            raise HTTPError(400, reason=f'failures must be from 0 to {MOST_FAILURES}')
        task_id = await self.queue.enqueue({'name': name, 'failures': int(failures)}, task_timeout=30)
        self.write({'id': task_id})


class Events(RequestHandler):
    """``GET /events?id=...&id=...`` streams the states of these tasks, from now to their ends.

    It is one stream for all of them, since browsers open few connections to a
    host. One that is opened again begins with the present states.
    """

    def initialize(self, queue: Torrelque, policy: RetryPolicy) -> None:
        self.queue = queue
        self.policy = policy
        self.turn = asyncio.Lock()
        self.following = anyio.CancelScope()

    async def get(self) -> None:
        ids = set(self.get_arguments('id'))
        if not 0 < len(ids) <= MOST_FOLLOWED:
            raise HTTPError(400, reason=f'from 1 to {MOST_FOLLOWED} ids are wanted')
        self.set_header('Content-Type', 'text/event-stream')
        self.set_header('Cache-Control', 'no-store')
        with self.following:
            async with anyio.create_task_group() as group:
                for task_id in ids:
                    group.start_soon(self.follow, task_id)

    async def follow(self, task_id: str) -> None:
        try:
            async for state in self.queue.watch(task_id):
                await self.send(id=task_id, **await self.describe(task_id, state))
        except TorrelqueLookupError:
            await self.send(id=task_id, status='UNKNOWN')

    async def describe(self, task_id: str, state: TorrelqueTaskState) -> dict[str, Any]:
        """What the page shows of a state.

        ``delays`` are the pauses after failed attempts, ``wait`` is what is left of the last, both in seconds.
        """
        failed = state.dequeue_count - (state.status in {TorrelqueTaskStatus.WORKING, TorrelqueTaskStatus.COMPLETED})
        wait = None
        if state.status is TorrelqueTaskStatus.DELAYED:
            with contextlib.suppress(TorrelqueLookupError):  # it has been done since
                due = (await self.queue.get_task(task_id)).due
                wait = due and max(0.0, due - await self.queue.get_server_time())
        return {
            'status': state.status.name,
            'attempt': state.dequeue_count,
            'delays': [self.policy(attempt, ConnectionError()) for attempt in range(1, failed + 1)],
            'wait': wait,
            'result': state.result,
            'reason': state.reason,
        }

    async def send(self, **event: Any) -> None:  # noqa: ANN401 - what JSON can say
        async with self.turn:
            self.write(f'data: {json.dumps(event)}\n\n')
            with contextlib.suppress(StreamClosedError):
                await self.flush()

    def on_connection_close(self) -> None:
        self.following.cancel()


class Page(StaticFileHandler):
    def set_extra_headers(self, path: str) -> None:
        self.set_header('Cache-Control', 'no-cache')
        self.set_header('Content-Security-Policy', "default-src 'self'")


def make_app(queue: Torrelque, policy: RetryPolicy) -> Application:
    """``policy`` is the worker's: the page shows how long it waits between attempts."""
    return Application(
        [
            ('/tasks', Tasks, {'queue': queue}),
            ('/events', Events, {'queue': queue, 'policy': policy}),
            ('/(.*)', Page, {'path': PAGE, 'default_filename': 'index.html'}),
        ]
    )
