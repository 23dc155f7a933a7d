"""Dialogs on top of a screen."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from torrelque.cli.output import printable
from torrelque.cli.top.styles import BAD, CALM, STRONG

__all__ = ('Confirm', 'Help')

HELP = {
    'Queues': {
        'Enter': 'the tasks of the queue',
        's  r': 'sort by the next column; reverse',
        '/': 'only queues with this in their name',
    },
    'Tasks': {
        '1 to 5': 'status, also with the arrows',
        'n  b': 'next page; the page before',
        'g': 'read the page again',
        '/': 'only tasks with this in their id or reason',
        'r  x': 'working: requeue; reject',
        'c': 'pending, delayed, working: cancel',
        'd  p': 'rejected: redrive; purge',
        'D  P': 'redrive or purge all of the queue',
    },
    'Figures': {
        'in  out': 'tasks enqueued; completed or rejected, a second',
        'oldest': 'age of the task at the front of pending',
        'drain': 'until nothing is pending, ∞ while that grows',
    },
}


class Confirm(ModalScreen[bool]):
    """A question before an action that cannot be undone."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding('y', 'answer(True)', 'Yes'),
        Binding('n,escape,q,enter', 'answer(False)', 'No'),
    ]

    def __init__(self, question: str) -> None:
        super().__init__(classes='dialog')
        self._question = printable(question)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._question))
            yield Static(Text.assemble((' y ', f'bold {BAD}'), 'yes     ', (' n ', STRONG), 'no'), id='keys')

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Help(ModalScreen[None]):
    """Help: the keys, and the meaning of the figures."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding('escape,q,enter,question_mark,space', 'close', 'Close')]

    def __init__(self) -> None:
        super().__init__(classes='dialog')

    def compose(self) -> ComposeResult:
        text = Text()
        for title, lines in HELP.items():
            text.append(f'{title}\n', style=STRONG)
            for key, meaning in lines.items():
                text.append(f'  {key:<9}', style='bold')
                text.append(f'{meaning}\n', style='')
        text.append('Esc goes back, q quits. Rates are averages of the last 10 seconds.', style=CALM)
        with Vertical() as box:
            box.border_title = 'torrelque top'
            yield Static(text)

    def action_close(self) -> None:
        self.dismiss(None)
