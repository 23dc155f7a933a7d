"""Values on the command line."""

from __future__ import annotations

import io
import sys

import pytest
import typer

from torrelque import TorrelqueTaskStatus
from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.params import Status, confirm, name_of, parse_headers, parse_time, read_ids


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [('90', 90), ('1.5s', 1.5), ('200ms', 0.2), ('10m', 600), ('2h30m', 9000), ('7d', 604_800), ('0', 0), (2.5, 2.5)],
)
def test_times(text: str | float, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize('text', ['', 's', '-1', '1 s', '1w', '1h 30m', '.5', '1e3', 'inf', 'nan'])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match='is not a time such as'):
        parse_time(text)


def test_headers() -> None:
    assert parse_headers(['a=1', 'b=x=y', 'c=']) == {'a': '1', 'b': 'x=y', 'c': ''}
    for word in ('a', '=1', ''):
        with pytest.raises(Refusal, match='--header expects NAME=VALUE'):
            parse_headers([word])


def test_ids_in_order_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'stdin', io.StringIO(' b \n\na\nc'))
    assert read_ids(['a', '-', 'd', 'a']) == ['a', 'b', 'c', 'd']


def test_statuses_by_their_names() -> None:
    assert {status.meant for status in Status} == set(TorrelqueTaskStatus)
    assert [name_of(status.meant) for status in Status] == [status.value for status in Status]


@pytest.mark.parametrize('answer', ['y\n', ' YES \n', 'yes'])
def test_an_answer_of_yes(answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'stdin', io.StringIO(answer))
    confirm('Sure?')
    assert capsys.readouterr() == ('', 'Sure? [y/N] ')


@pytest.mark.parametrize(('answer', 'status'), [('n\n', Exit.NEGATIVE), ('\n', Exit.NEGATIVE), ('', Exit.USAGE)])
def test_any_other_answer(answer: str, status: Exit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'stdin', io.StringIO(answer))
    with pytest.raises(Refusal) as refused:
        confirm('Sure?')
    assert refused.value.status is status
