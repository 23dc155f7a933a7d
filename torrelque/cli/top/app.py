"""The application, which runs the monitor and the screens."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import ClassVar

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.signal import Signal

from torrelque import TorrelqueError
from torrelque.cli.top.monitor import Monitor
from torrelque.cli.top.screens.dialogs import Help
from torrelque.cli.top.screens.queues import QueuesScreen
from torrelque.cli.top.styles import THEME

__all__ = ('TopApp',)


class TopApp(App[None]):
    """`torrelque top`. ``failure`` is the error if the server was unreachable from the start."""

    CSS_PATH: ClassVar[str | PurePath | list[str | PurePath] | None] = 'styles.tcss'
    TITLE: str | None = 'torrelque top'
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding('question_mark', 'explain', 'Help', key_display='?'),
        Binding('q', 'quit', 'Quit'),
        Binding('ctrl+c', 'quit', show=False, priority=True),
    ]

    def __init__(self, url: str, *, queue: str | None = None, interval: float = 1.0) -> None:
        """Create the application. Raises TorrelqueValueError or TorrelqueTypeError for a bad URL."""
        super().__init__()
        self.failure: TorrelqueError | None = None
        self.server: str = without_password(url)
        self.sampled: Signal[Monitor] = Signal(self, 'sampled')
        self.monitor: Monitor = Monitor(url, queue=queue, interval=interval, on_change=self._tell)

    def on_mount(self) -> None:
        self.register_theme(THEME)
        self.theme = THEME.name
        self.push_screen(QueuesScreen())
        self._watch()

    @work(group='monitor')
    async def _watch(self) -> None:
        try:
            await self.monitor.run()
        except TorrelqueError as error:
            self.failure = error
            self.exit(return_code=1)

    def _tell(self) -> None:
        self.sampled.publish(self.monitor)

    def action_explain(self) -> None:
        self.push_screen(Help())


def without_password(url: str) -> str:
    """Return a URL without its credentials."""
    return re.sub(r'://[^/]*@', '://', url)
