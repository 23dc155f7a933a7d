"""The demonstration's report."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from torrelque.cli.demo.report import MOST_NAMED, Report


def shown(report: Report, *workers: Any) -> str:  # noqa: ANN401 - as much of a worker as is shown
    out = io.StringIO()
    report.show(Console(file=out, width=120, color_system=None), list(workers))
    return out.getvalue()


def worker(name: str, *, killed: bool = False, replaces: object = None) -> SimpleNamespace:
    return SimpleNamespace(name=name, loop='trio', client='native', killed=killed, replaces=replaces)


def test_all_is_right() -> None:
    report = Report(files=2, size=1_500_000, seconds=0.25)
    report.by_worker.update(['1', '3'])
    victim = worker('1', killed=True)
    text = shown(report, victim, worker('2'), worker('3', replaces=victim))
    assert report.right
    assert '2 files, 1.5 MB in 0.2 s; redelivered: 0, lost: 0, wrong: 0' in text
    assert 'Every digest is right.' in text
    rows = [line for line in text.splitlines() if 'native' in line]
    assert [('killed half-way' in row, 'replaces 1' in row) for row in rows] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip
    assert [row.split('│')[4].strip() for row in rows] == ['1', '0', '1']


def test_files_that_are_lost_or_wrong_are_named() -> None:
    report = Report(files=3, missing=['a [red]name: no result'], wrong=['/b'], unreadable=['/c: denied'])
    text = shown(report)
    assert not report.right
    assert 'lost: a [red]name: no result' in text
    assert 'wrong digest: /b' in text
    assert 'left out, unreadable: /c: denied' in text
    assert 'Every digest' not in text


def test_of_many_files_only_some_are_named() -> None:
    text = shown(Report(files=30, missing=[f'/{number}' for number in range(MOST_NAMED + 5)]))
    assert text.count('lost: /') == MOST_NAMED
    assert 'lost: 5 more' in text
