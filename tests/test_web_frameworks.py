"""The page on web frameworks and notebooks: what it shows works."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx

from tests.servers import Server
from tests.test_docs import blocks
from torrelque import Task, Torrelque, connect


async def _send(address: str) -> None:
    """What the page leaves to the reader."""


SHOWN = 'redis://localhost:6379'


def shown(server: Server, language: str = 'python') -> list[str]:
    pieces = [piece.replace(SHOWN, server.url) for piece in blocks('web-frameworks', language)]
    assert pieces
    return pieces


async def work(url: str, handler: Callable[[Task], Awaitable[object]]) -> None:
    async with connect(url) as client, Torrelque(client, queue='mail') as queue:
        task = await queue.dequeue(timeout=30)
        await handler(task)
        await anyio.sleep(0.3)
        await queue.release(task, result='sent')


def test_fastapi(server: Server) -> None:
    names: dict[str, Any] = {'__name__': 'shown'}
    exec('\n'.join(shown(server)), names)  # noqa: S102 - what the page shows
    app = names['app']

    async def main() -> None:
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url='http://x') as web:
            task_id = (await web.post('/mails', json={'to': ['joe', 'zoe']})).json()['id']
            assert (await web.get(f'/mails/{task_id}')).json() == {'status': 'pending', 'result': None}
            assert (await web.get('/mails/none')).status_code == 404
            async with anyio.create_task_group() as group:
                names['send_one'] = _send
                group.start_soon(work, server.url, names['send_all'])
                events = await web.get(f'/mails/{task_id}/events')
            told = [json.loads(line.removeprefix('data: ')) for line in events.text.split('\n\n') if line]
            assert told[0]['status'] in ('pending', 'working')
            assert {(each['done'], each['note']) for each in told if 'done' in each} >= {(1.0, 'zoe')}
            assert told[-1] == {'status': 'completed', 'result': 'sent'}

    anyio.run(main)


def test_hooks_for_start_and_end(server: Server) -> None:
    names: dict[str, Any] = {'__name__': 'shown'}
    exec('\n'.join(shown(server)), names)  # noqa: S102 - what the page shows

    async def main() -> None:
        mail = names['Mail']()
        await asyncio.create_task(mail.start())
        await mail.queue.enqueue('x')
        await asyncio.create_task(mail.stop())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_jupyter(server: Server) -> None:
    names: dict[str, Any] = {}

    async def run(cell: str) -> None:
        code = compile(cell, 'cell', 'exec', flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)  # noqa: S307 - what the page shows
        if inspect.isawaitable(result):
            await result

    async def main() -> None:
        cells = shown(server, 'py3')
        assert len(cells) == 3
        for cell in cells:
            await asyncio.create_task(run(cell))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
