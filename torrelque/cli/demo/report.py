"""The demonstration's result, and how it is printed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torrelque.cli.demo.crew import Worker

__all__ = ('Report',)

MOST_NAMED = 10
"""Number of files listed for each kind of error."""


@dataclass
class Report:
    """The outcome for all files."""

    files: int
    size: int = 0
    seconds: float = 0.0
    by_worker: Counter[str] = field(default_factory=Counter)
    redelivered: int = 0
    """Number of deliveries after the first one of each task."""
    missing: list[str] = field(default_factory=list)
    """Files without a digest, with the reason."""
    wrong: list[str] = field(default_factory=list)
    """Files with a wrong digest."""
    unreadable: list[str] = field(default_factory=list)
    """Files that were skipped because they could not be read."""

    @property
    def right(self) -> bool:
        return not self.missing and not self.wrong

    def show(self, console: Console, workers: list[Worker]) -> None:
        table = Table(show_footer=True)
        table.add_column('worker', footer='tasks')
        table.add_column('event loop')
        table.add_column('client')
        table.add_column('tasks done', footer=f'{self.files:,}', justify='right')
        table.add_column()
        for worker in workers:
            note = 'killed half-way' if worker.killed else f'replaces {worker.replaces.name}' if worker.replaces else ''
            table.add_row(worker.name, worker.loop, worker.client, f'{self.by_worker[worker.name]:,}', note)
        console.print(table)
        console.print(
            f'{self.files:,} files, {self.size / 1e6:,.1f} MB in {self.seconds:.1f} s; '
            f'redelivered: {self.redelivered:,}, lost: {len(self.missing):,}, wrong: {len(self.wrong):,}',
            highlight=False,
        )
        self._name(console, 'left out, unreadable', self.unreadable)
        self._name(console, 'lost', self.missing)
        self._name(console, 'wrong digest', self.wrong)
        if self.right:
            console.print('[green]Every digest is right.')

    @staticmethod
    def _name(console: Console, trouble: str, files: list[str]) -> None:
        for file in files[:MOST_NAMED]:
            # File names may contain anything, even characters that cannot be encoded.
            printable = file.encode(errors='backslashreplace').decode()
            console.print(f'{trouble}: {escape(printable)}', highlight=False, soft_wrap=True)
        if len(files) > MOST_NAMED:
            console.print(f'{trouble}: {len(files) - MOST_NAMED:,} more', highlight=False)
