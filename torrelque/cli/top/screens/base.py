"""Common parts of the screens: status line, updates, filter, and actions on tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from textual import work
from textual.screen import Screen
from textual.signal import Signal
from textual.widgets import Input

from torrelque import TorrelqueConnectionError, TorrelqueError
from torrelque.cli.output import printable
from torrelque.cli.top.monitor import Monitor
from torrelque.cli.top.screens.dialogs import Confirm
from torrelque.cli.top.widgets import RowTable, StatusLine

__all__ = ('FilteredScreen', 'TopScreen')


class Top(Protocol):
    """What the screens need from the application."""

    server: str
    monitor: Monitor
    sampled: Signal[Monitor]


class TopScreen(Screen[None]):
    """A screen that is redrawn with each sample."""

    _offered: tuple[object, ...] = ()
    VERTICAL_BREAKPOINTS: list[tuple[int, str]] | None = [(0, '-low'), (34, '-tall')]  # noqa: RUF012 - declared like this in Textual

    @property
    def top(self) -> Top:
        return cast('Top', self.app)

    @property
    def monitor(self) -> Monitor:
        return self.top.monitor

    def on_mount(self) -> None:
        self.top.sampled.subscribe(self, self.on_sample)

    def on_sample(self, monitor: Monitor) -> None:
        """Handle a new sample. Screens that read more extend this."""
        self.show_figures()

    def on_screen_resume(self) -> None:
        self.call_after_refresh(self.show_figures)

    def on_resize(self) -> None:
        self.call_after_refresh(self.show_figures)

    @property
    def is_there(self) -> bool:
        """Whether the screen has its widgets: after it was composed, and before it is closed."""
        return self.is_running and bool(self.query(StatusLine))

    def show_figures(self) -> None:
        """Redraw the screen if it has its widgets."""
        if self.is_there:
            self.query_one(StatusLine).show(self.monitor)
            self.draw()

    def offer(self, *what: object) -> None:
        """Refresh the keys in the footer if ``what`` they depend on has changed, because refreshing flickers."""
        if self.is_there and what != self._offered:
            self._offered = what
            self.refresh_bindings()

    def draw(self) -> None:
        """Draw everything below the status line."""

    def do(self, question: str, act: Callable[[], Awaitable[str]]) -> None:
        """Run ``act`` in the background, after asking the question, if any. ``act`` returns a text to show."""
        self._do(question, act)

    @work(group='doing')
    async def _do(self, question: str, act: Callable[[], Awaitable[str]]) -> None:
        if question and not await self.app.push_screen_wait(Confirm(question)):
            return
        try:
            message = await act()
        except TorrelqueConnectionError as error:
            self.notify(f'No answer, so it may have been done: {error}', severity='error', markup=False)
        except TorrelqueError as error:
            self.notify(printable(str(error)), severity='warning', markup=False)
        else:
            self.notify(printable(message), markup=False)
        self.monitor.look_again()
        if self.is_there:
            self.changed()

    def changed(self) -> None:
        """Handle a change, or a task that differs from what is shown."""


class FilteredScreen(TopScreen):
    """A screen with a table and a filter for it."""

    wanted: str = ''
    """The text of the filter."""

    def make_filter(self) -> Input:
        return Input(
            placeholder='filter: Enter keeps it, Esc clears it', id='filter', compact=True, select_on_focus=False
        )

    def action_filter(self) -> None:
        self.add_class('-filtering')
        self.query_one('#filter', Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.value.strip() != self.wanted:
            self.wanted = event.value.strip()
            self.filter_changed()

    def on_input_submitted(self) -> None:
        self._leave_filter()

    def action_back(self) -> None:
        """Clear the filter, or close the screen if there is none."""
        field = self.query_one('#filter', Input)
        if field.has_focus or field.value:
            field.value = ''
            self._leave_filter()
        elif len(self.app.screen_stack) > 2:  # noqa: PLR2004 - Textual's first screen and the screen of the queues
            self.app.pop_screen()

    def _leave_filter(self) -> None:
        self.set_class(bool(self.query_one('#filter', Input).value), '-filtering')
        self.query_one(RowTable).focus()

    def filter_changed(self) -> None:
        """Handle a change of the filter."""
