"""Tables and lines on standard output."""

from __future__ import annotations

import re
import sys

import pytest

from torrelque.cli.output import console, make_table, print_json, print_line, print_table, printable


def test_characters_that_steer_a_terminal_are_escaped() -> None:
    assert printable('Zöe') == 'Zöe'
    assert printable('\x1b[31m\n\x9b\u202e') == r'\x1b[31m\n\x9b\u202e'
    assert printable('a\tb\n', keep='\t') == 'a\tb\\n'


def print_one(text: str) -> None:
    table = make_table('id', 'reason', 'n', right=('n',))
    table.add_row('one', text, '1')
    print_table(table, cut=1)


def test_piped_tables_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_one('x' * 500)
    assert 'x' * 500 in capsys.readouterr().out


def test_on_a_terminal_one_column_is_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    monkeypatch.setenv('COLUMNS', '40')
    print_one('x' * 500)
    lines = re.sub(r'\x1b\[[\d;]*m', '', capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[-1].split()[0] == 'one'
    assert lines[-1].split()[1].endswith('x…')
    assert lines[-1].split()[2] == '1'


def test_text_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console().print('[red]as it is[/] :smile: 12')
    assert capsys.readouterr().out == '[red]as it is[/] :smile: 12\n'


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({'id': 'ä', 'n': None})
    print_line('[b]ä')
    assert capsys.readouterr().out == '{"id": "\\u00e4", "n": null}\n[b]ä\n'
