"""`torrelque top` in this process, driven by keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import Input, Static

from torrelque import Torrelque, TorrelqueTaskStatus, connect
from torrelque.cli.top.app import TopApp
from torrelque.cli.top.screens.tasks import TasksScreen
from torrelque.cli.top.widgets import RowTable

PATIENCE = 30.0
STATUS = TorrelqueTaskStatus


class Stage:
    """The application before a server, and a way to the queues beside it."""

    def __init__(self, app: TopApp, pilot: Pilot[None], open_queue: Callable[[str], Torrelque]) -> None:
        self.app = app
        self.press = pilot.press
        self.queue = open_queue
        self._pilot = pilot

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it is so. Every turn lets the application handle what has come in."""
        with anyio.fail_after(PATIENCE):
            while not condition():
                await self._pilot.pause(0.01)

    async def until_on(self, screen: type[object]) -> None:
        await self.until(lambda: isinstance(self.app.screen, screen) and self.app.screen.is_mounted)

    async def until_named(self, *names: str) -> None:
        """Wait until these are the rows."""
        await self.until(lambda: self.names() == list(names))

    @property
    def table(self) -> RowTable:
        return self.app.screen.query_one(RowTable)

    def rows(self) -> list[list[str]]:
        return [[each.plain.strip() for each in self.table.get_row_at(row)] for row in range(self.table.row_count)]

    def names(self) -> list[str]:
        return [row[0] for row in self.rows()]

    def text(self, selector: str) -> str:
        return text_of(self.app.screen.query_one(selector, Static))

    def offered(self) -> set[str]:
        """The keys that the foot of the screen offers."""
        return {each.binding.key for each in self.app.screen.active_bindings.values() if each.binding.show}

    def said(self) -> list[str]:
        """What the application told, the latest last."""
        return [each.message for each in self.app._notifications]

    async def filter(self, text: str) -> None:
        """Type into the line that the key for it opens."""
        await self.press('slash')
        await self.until(lambda: self.app.screen.query_one('#filter', Input).has_focus)
        await self.press(*text)

    async def open_tasks(self, number: int | None = None) -> None:
        """The tasks of the selected queue, with the status of that number."""
        await self.press('enter')
        await self.until_on(TasksScreen)
        if number is not None:
            await self.press(str(number))


def text_of(widget: Static) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(widget.visual if isinstance(widget.content, str) else widget.content)
    return capture.get()


@asynccontextmanager
async def staged(url: str, *, size: tuple[int, int] = (80, 24), queue: str | None = None) -> AsyncIterator[Stage]:
    async with connect(url) as client:
        app = TopApp(url, queue=queue, interval=0.1)
        async with app.run_test(size=size, notifications=True) as pilot:
            yield Stage(app, pilot, lambda name: Torrelque(client, queue=name))


async def reject(queue: Torrelque, task_id: str, reason: str = 'broken') -> str:
    await queue.enqueue({'number': 1}, task_id=task_id)
    (task,) = await queue.dequeue_nowait()
    await queue.reject(task, reason)
    return task_id
