"""The screen with the state and payload of a task."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import ClassVar

from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static
from textual.worker import Worker

from torrelque import TorrelqueError, TorrelqueLookupError, TorrelqueTask, TorrelqueTaskStatus
from torrelque.cli.output import printable
from torrelque.cli.payloads import MOST, render
from torrelque.cli.presence import Holders
from torrelque.cli.states import progress, read_task
from torrelque.cli.top.actions import ACTIONS
from torrelque.cli.top.monitor import Monitor, Watched
from torrelque.cli.top.screens.base import TopScreen
from torrelque.cli.top.styles import BACKGROUND, BAD, CALM, STATUS, STRONG
from torrelque.cli.top.widgets import StatusLine
from torrelque.cli.units import NOTHING, duration

__all__ = ('TaskScreen',)


class TaskScreen(TopScreen):
    """A task's current state, or its last known state after it has gone."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(action.key, f'act("{name}")', action.title) for name, action in ACTIONS.items()),
        Binding('escape', 'back', 'Back', key_display='Esc'),
    ]

    def __init__(self, watched: Watched, task_id: str) -> None:
        super().__init__()
        self._watched = watched
        self._task_id = task_id
        self._seen: TorrelqueTask | None = None
        self._trouble = ''
        self._read_worker: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        yield StatusLine(self._watched.name, self._task_id)
        yield Static(id='state')
        with VerticalScroll(id='body'):
            yield Static(id='data')
        yield Footer()

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one('#body').focus()
        self.changed()

    # Reading

    def on_sample(self, monitor: Monitor) -> None:
        super().on_sample(monitor)
        reader = self._read_worker
        is_reading = reader is not None and not reader.is_finished  # begun again, it might never end
        if not (monitor.away or is_reading) and self.is_current:
            self.changed()

    def changed(self) -> None:
        self._read_worker = self._read()

    @work(group='reading', exclusive=True)
    async def _read(self) -> None:
        before, trouble = self._seen, ''
        try:
            self._seen = await read_task(self._watched.queue, self._task_id)
        except TorrelqueLookupError:
            trouble = 'gone: completed without a result, cancelled or purged'
        except TorrelqueError as error:
            trouble = printable(str(error))
        if self._seen is not None and before is not None and self._seen.data is None:
            self._seen = self._seen._replace(data=before.data, headers=before.headers)
        self._trouble = trouble
        if not self.is_there:
            return
        if self._seen is not None and (before is None or before[:4] != self._seen[:4]):
            self._show_body(self._seen)
        self.show_figures()
        self.offer(trouble, *(ACTIONS[name].fits(self._seen) for name in ACTIONS if self._seen is not None))

    # Showing

    def draw(self) -> None:
        shown = self.query_one('#state', Static)
        if self._seen is None:
            shown.update(Text(self._trouble or 'Reading', style=BAD if self._trouble else CALM))
        else:
            shown.update(self._state(self._seen))

    def _state(self, task: TorrelqueTask) -> Table:
        grid = Table.grid(padding=(0, 2), expand=True)
        for label in (True, False, True, False):
            grid.add_column(style=CALM if label else '', no_wrap=True, ratio=None if label else 1, overflow='ellipsis')
        fields = list(self._fields(task))
        half = (len(fields) + 1) // 2
        for number in range(half):
            right = fields[number + half] if number + half < len(fields) else ('', Text())
            grid.add_row(*fields[number], *right)
        table = Table.grid(expand=True)
        table.add_row(grid)
        if task.state.reason:
            table.add_row(Text.assemble(('reason  ', CALM), (printable(task.state.reason), BAD)))
        if self._trouble:
            table.add_row(Text(self._trouble, style=BAD))
        return table

    def _fields(self, task: TorrelqueTask) -> Iterator[tuple[str, Text]]:
        state = task.state
        status = Text(state.status.name.lower(), style=f'bold {STATUS[state.status]}')
        if self._trouble.startswith('gone'):
            status = Text(f'was {state.status.name.lower()}', style=CALM)
        yield 'status', status
        yield 'deliveries', Text(f'{state.dequeue_count}')
        yield 'at most', Text(f'{state.max_dequeues}' if state.max_dequeues else NOTHING)
        yield 'requeued', Text(f'{state.requeue_count} times' if state.requeue_count != 1 else 'once')
        yield 'time-out', Text(duration(state.timeout))
        yield 'enqueued', self._time(state.enqueue_time)
        yield 'delivered', self._time(state.last_dequeue_time)
        if state.status is TorrelqueTaskStatus.WORKING:
            yield 'stale', self._time(task.deadline)
            if state.progress is not None:
                yield 'progress', Text(progress(state))
            yield 'held by', Text(printable(Holders(self._watched.workers).of(task) or NOTHING))
        elif state.status is TorrelqueTaskStatus.DELAYED:
            yield 'due', self._time(task.due)
        elif state.status.isfinal():
            yield (
                'released' if state.status is TorrelqueTaskStatus.COMPLETED else state.status.name.lower(),
                self._time(state.release_time),
            )
        else:
            yield 'requeued at', self._time(state.last_requeue_time)
        if state.expires is not None:
            yield 'expires', self._time(state.expires)
        yield 'revision', Text(f'{state.revision}')

    def _time(self, time: float | None) -> Text:
        if time is None:
            return Text(NOTHING, style=CALM)
        now = self.monitor.server_time or time
        distance = f'in {duration(time - now)}' if time > now else f'{duration(now - time)} ago'
        return Text.assemble(f'{datetime.fromtimestamp(time, UTC):%H:%M:%S}', (f'  {distance}', CALM))

    def _show_body(self, task: TorrelqueTask) -> None:
        sections = Table.grid(expand=True)
        body = self.query_one('#body')
        titles = []
        if task.headers:
            headers = Text(
                '\n'.join(f'{printable(name)}: {printable(value)}' for name, value in sorted(task.headers.items()))
            )
            _add(sections, 'headers', headers)
        for title, data in (('payload', task.data), ('result', task.state.result)):
            if data is not None:
                shown = render(data, MOST)
                titles.append(f'{title}: {shown.encoding}, {len(data):,} bytes')
                text = (
                    Syntax(shown.text, 'json', theme='github-dark', background_color=BACKGROUND, word_wrap=True)
                    if shown.encoding == 'json'
                    else Text(shown.text)
                )
                _add(sections, title, text)
        body.border_title = ' · '.join(titles)
        self.query_one('#data', Static).update(sections)

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == 'act':
            return self._seen is not None and not self._trouble and ACTIONS[str(parameters[0])].fits(self._seen)
        return True

    def action_back(self) -> None:
        self.app.pop_screen()

    def action_act(self, name: str) -> None:
        action = ACTIONS[name]

        async def act() -> str:
            await action.do(self._watched.queue, self._task_id)
            return action.done.format(self._task_id)

        self.do(action.question.format(self._task_id), act)


def _add(sections: Table, title: str, shown: Text | Syntax) -> None:
    if sections.row_count:
        sections.add_row('')
    if title != 'payload' or sections.row_count:
        sections.add_row(Text(title, style=STRONG))
    sections.add_row(shown)
