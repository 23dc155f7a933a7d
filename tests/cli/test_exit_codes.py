"""Exit statuses, and what is said when a package is missing."""

from __future__ import annotations

import pytest

from torrelque.cli.exit_codes import Exit, fail, require


def test_statuses_are_those_that_scripts_rely_on() -> None:
    assert {status.name: int(status) for status in Exit} == {
        'OK': 0, 'NEGATIVE': 1, 'USAGE': 2, 'SERVER': 3, 'TIMEOUT': 4,
        'BUG': 70, 'INTERRUPTED': 130, 'BROKEN_PIPE': 141,
    }  # fmt: skip


def test_failing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fail('one\n  line', Exit.SERVER)
    assert ended.value.code == Exit.SERVER
    assert capsys.readouterr() == ('', 'torrelque: one line\n')


def test_packages_that_are_there_are_no_matter() -> None:
    require({'anyio': 'none', 'redis': 'none'})


def test_the_extras_of_missing_packages_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        require({'not_b': 'two', 'anyio': 'none', 'not_a': 'one', 'not_c': 'one'})
    assert ended.value.code == Exit.USAGE
    said = 'not installed: not_a, not_b, not_c. Install with: pip install "torrelque[one,two]"'
    assert capsys.readouterr().err == f'torrelque: {said}\n'
