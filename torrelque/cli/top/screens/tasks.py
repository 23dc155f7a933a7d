"""The screen with the tasks of a queue, by status and page."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Static
from textual.worker import Worker

from torrelque import TorrelqueError, TorrelqueTask, TorrelqueTaskStatus
from torrelque.cli.output import printable
from torrelque.cli.payloads import preview
from torrelque.cli.states import limits_text, pause_text, progress
from torrelque.cli.top.actions import ACTIONS, ALL_ACTIONS
from torrelque.cli.top.monitor import Monitor, Watched
from torrelque.cli.top.paging import Pager, Row, read_rows
from torrelque.cli.top.screens.base import FilteredScreen
from torrelque.cli.top.screens.task import TaskScreen
from torrelque.cli.top.styles import BAD, CALM, STATUS, WARN
from torrelque.cli.top.widgets import Column, RowTable, StatusLine, cell
from torrelque.cli.units import NOTHING, count, duration

__all__ = ('TasksScreen',)

TABS = (
    TorrelqueTaskStatus.PENDING,
    TorrelqueTaskStatus.WORKING,
    TorrelqueTaskStatus.DELAYED,
    TorrelqueTaskStatus.REJECTED,
    TorrelqueTaskStatus.COMPLETED,
)
WHEN = {
    TorrelqueTaskStatus.PENDING: 'waits',
    TorrelqueTaskStatus.WORKING: 'stale in',
    TorrelqueTaskStatus.DELAYED: 'due in',
    TorrelqueTaskStatus.REJECTED: 'rejected',
    TorrelqueTaskStatus.COMPLETED: 'released',
}
WHOLE_ID, SHORT_ID = 33, 18
AGE, TRIES, WHEN_WIDTH = 9, 7, 10
ROOMY = 100
"""Screen width from which ids are shown in full."""


class TasksScreen(FilteredScreen):
    """A table of a queue's tasks with one status.

    The listed tasks stay on the page and show their current state. When none of them
    is left, the list is read again.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f'tab({number - 1})', status.name.capitalize(), show=False)
            for number, status in enumerate(TABS, 1)
        ),
        Binding('left', 'turn(-1)', 'Status', show=False, priority=True),
        Binding('right', 'turn(1)', 'Status', show=False, priority=True),
        *(Binding(action.key, f'act("{name}")', action.title) for name, action in ACTIONS.items()),
        *(
            Binding(action.key, f'act_on_all("{name}")', action.title, show=not action.question.startswith('Remove'))
            for name, action in ALL_ACTIONS.items()
        ),
        Binding('n', 'page(1)', 'Next', key_display='n'),
        Binding('b', 'page(-1)', 'Before', show=False),
        Binding('g', 'again', 'Again', show=False),
        Binding('slash', 'filter', 'Filter', key_display='/'),
        Binding('escape', 'back', 'Back', key_display='Esc'),
    ]

    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self._watched = watched
        self._tab = 0
        self._page = 0
        self._pager: Pager | None = None
        self._rows: list[Row] = []
        self._reading: object = None
        """Identifies the read in progress."""
        self._trouble = ''
        self._read_worker: Worker[None] | None = None

    @property
    def status(self) -> TorrelqueTaskStatus:
        return TABS[self._tab]

    def compose(self) -> ComposeResult:
        yield StatusLine(self._watched.name)
        yield Static(id='tabs')
        yield RowTable('tasks')
        yield Static(id='nothing')
        yield Static(id='note')
        yield self.make_filter()
        yield Footer()

    def on_mount(self) -> None:
        super().on_mount()
        stats = self._watched.stats
        if stats is not None and not stats.pending:  # start with a tab that has tasks
            self._tab = next(
                (number for number, status in enumerate(TABS[:-1]) if getattr(stats, status.name.lower())), 0
            )
        self.call_after_refresh(self.action_again)

    # Reading

    def action_again(self) -> None:
        """Read again, from the first page."""
        self._pager = None
        self._page = 0
        self._read(0)

    def action_page(self, step: int) -> None:
        page = self._page + step
        if not self._reading and page >= 0 and self._pager is not None and self._pager.has(page):
            self._read(page)

    def _read(self, page: int) -> None:
        reading = self._reading = object()
        self._read_page(page, reading)
        self.show_figures()

    @work(group='page', exclusive=True)
    async def _read_page(self, page: int, reading: object) -> None:
        queue = self._watched.queue
        pager = self._pager
        if pager is None:
            size = max(self.query_one('#tasks').size.height or self.query_one('#nothing').size.height, 6) - 1
            pager = Pager(queue, self.status, size, self.wanted)
        try:
            rows = await read_rows(queue, await pager.read(page))
        except TorrelqueError as error:
            self._trouble = str(error)
            self._pager = None  # this pager cannot continue
        else:
            self._rows, self._page, self._pager, self._trouble = rows, page, pager, ''
        if self._reading is reading:
            self._reading = None
        self._show()

    def on_sample(self, monitor: Monitor) -> None:
        super().on_sample(monitor)
        if self._reading or monitor.away or not self.is_current:
            return
        if any(map(self._is_here, self._rows)):
            if self._read_worker is None or self._read_worker.is_finished:  # begun again, a slow read would never end
                self.changed()
        elif self._trouble or getattr(self._watched.stats, self.status.name.lower(), None):
            self.action_again()

    def _is_here(self, row: Row) -> bool:
        return row.task is not None and row.task.state.status is self.status

    def changed(self) -> None:
        self._read_worker = self._read_rows()

    @work(group='rows', exclusive=True)
    async def _read_rows(self) -> None:
        """Update the tasks of this page."""
        before = self._rows
        try:
            rows = await read_rows(self._watched.queue, [row.id for row in before])
        except TorrelqueError as error:
            self._trouble = str(error)
        else:
            if self._rows is before:
                self._rows, self._trouble = rows, ''
        self._show()

    def _show(self) -> None:
        self.show_figures()
        self.offer(self._tab, self._page, self._pager is not None and self._pager.has(self._page + 1))

    # Showing

    def draw(self) -> None:
        self.query_one('#tabs', Static).update(self._tabs())
        columns = [
            Column('id', WHOLE_ID if self.size.width >= ROOMY else SHORT_ID, right=False),
            Column('age', AGE),
            Column('tries', TRIES),
            Column(WHEN[self.status], WHEN_WIDTH),
        ]
        left = self.size.width - 3 - sum(column.width for column in columns)
        title = {TorrelqueTaskStatus.REJECTED: 'reason', TorrelqueTaskStatus.COMPLETED: 'result'}.get(
            self.status, 'payload'
        )
        columns.append(Column(f'  {title}', max(left, 10), right=False))
        self.query_one(RowTable).show(columns, [(row.id, self._cells(row, columns)) for row in self._rows])
        self.set_class(not self._rows, '-empty')
        if self._rows and self.focused is None:
            self.query_one(RowTable).focus()
        self.query_one('#nothing', Static).update(self._why_nothing())
        self.query_one('#note', Static).update(self._note())

    def _why_nothing(self) -> Text:
        if self._trouble:
            return Text(printable(self._trouble), style=BAD)
        if self._reading:
            return Text('Reading')
        name = self.status.name.lower()
        if self.wanted:
            return Text(f'No {name} tasks with {self.wanted!r} in their id or reason')
        return Text('No results are kept' if self.status is TorrelqueTaskStatus.COMPLETED else f'No tasks are {name}')

    def _note(self) -> Text:
        if not self._rows:
            return Text()
        last = self._pager is not None and not self._pager.has(self._page + 1)
        page = f'page {self._page + 1}{", the last" if last and self._page else ""}'
        return Text.assemble(('reading ' if self._reading else page, CALM), (f'  {printable(self._trouble)}', BAD))

    def _tabs(self) -> Text:
        stats = self._watched.stats
        text = Text(no_wrap=True, overflow='crop')
        for number, status in enumerate(TABS):
            name = 'results' if status is TorrelqueTaskStatus.COMPLETED else status.name.lower()
            depth = getattr(stats, name, None)
            here = number == self._tab
            label = f' {number + 1} {name} ' + ('' if depth is None else f'{count(depth)} ')
            text.append(label, style=f'bold reverse {STATUS[status]}' if here else STATUS[status] if depth else CALM)
        if stats is not None and stats.paused is not None:
            text.append(f' {pause_text(stats.paused)}', style=WARN)
        if stats is not None and (limits := limits_text(stats.limits)):
            text.append(f' {limits}', style=CALM)
        return text

    def _cells(self, row: Row, columns: list[Column]) -> list[Text]:
        if row.task is None:
            return [cell(row.id, CALM, right=False), *[cell(NOTHING)] * 3, cell('  gone', CALM, right=False)]
        task, state = row.task, row.task.state
        now = self.monitor.server_time or 0.0
        moved = not self._is_here(row)
        age = None if state.enqueue_time is None else max(now - state.enqueue_time, 0)
        what = f'now {state.status.name.lower()}' if moved else self._what(task)
        cells = [
            cell(row.id, right=False),
            cell(duration(age)),
            cell(f'{state.dequeue_count}'),
            cell(NOTHING if moved else self._when(task, now)),
            cell(f'  {what[: columns[-1].width]}', BAD if state.reason and not moved else '', right=False),
        ]
        if moved:
            for each in cells:
                each.style = CALM
        return cells

    def _what(self, task: TorrelqueTask) -> str:
        if self.status is TorrelqueTaskStatus.REJECTED:
            return task.state.reason or ''
        if task.state.progress is not None:
            return f'{progress(task.state)}  {preview(task.data)}'
        return preview(task.state.result if self.status is TorrelqueTaskStatus.COMPLETED else task.data)

    def _when(self, task: TorrelqueTask, now: float) -> str:
        state = task.state
        if self.status is TorrelqueTaskStatus.PENDING:
            since = state.last_requeue_time or state.enqueue_time
            return duration(None if since is None else max(now - since, 0))
        if self.status in (TorrelqueTaskStatus.WORKING, TorrelqueTaskStatus.DELAYED):
            at = task.deadline if self.status is TorrelqueTaskStatus.WORKING else task.due
            return duration(None if at is None else max(at - now, 0))
        return NOTHING if state.release_time is None else f'{duration(max(now - state.release_time, 0))}'

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == 'act':
            return self.status in ACTIONS[str(parameters[0])].statuses
        if action == 'act_on_all':
            return self.status is TorrelqueTaskStatus.REJECTED
        if action == 'page':
            step = int(str(parameters[0]))
            return self._page + step >= 0 and self._pager is not None and self._pager.has(self._page + step)
        if action == 'turn':
            return not self.query_one('#filter').has_focus
        return True

    def action_turn(self, step: int) -> None:
        self.action_tab((self._tab + step) % len(TABS))

    def action_tab(self, number: int) -> None:
        self._tab = number
        self._rows = []
        self.action_again()
        self.offer(number)

    def filter_changed(self) -> None:
        self.action_again()

    def _selected(self) -> Row | None:
        selected = self.query_one(RowTable).selected
        return next((row for row in self._rows if row.id == selected), None)

    def on_data_table_row_selected(self) -> None:
        self.action_open()

    def action_open(self) -> None:
        row = self._selected()
        if row is not None:
            self.app.push_screen(TaskScreen(self._watched, row.id))

    def action_act(self, name: str) -> None:
        row, action = self._selected(), ACTIONS[name]
        if row is None or row.task is None or not action.fits(row.task):
            self.notify(f'{action.title}: this task is not {self.status.name.lower()} any more', severity='warning')
            return

        async def act(task_id: str) -> str:
            await action.do(self._watched.queue, task_id)
            return action.done.format(task_id)

        self.do(action.question.format(row.id), partial(act, row.id))

    def action_act_on_all(self, name: str) -> None:
        action, stats = ALL_ACTIONS[name], self._watched.stats

        async def act() -> str:
            return action.done.format(f'{await action.do(self._watched.queue):,}')

        rejected = 0 if stats is None else stats.rejected
        self.do(action.question.format(f'{rejected:,}', self._watched.name), act)
