"""Two revisions of the library are compared in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from benchmarks.environments import FOLDER, ROOT
from benchmarks.plan import VARIANTS
from benchmarks.running import FailedError, Subject

NATIVE = VARIANTS[0]


@pytest.mark.server
def test_a_row_of_two_revisions_becomes_a_line_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / '.git').exists():
        pytest.skip('revisions come from a repository')
    monkeypatch.setattr(compare, 'SETTINGS', {**compare.SETTINGS, 'seconds': 0.02, 'warm_up': 0.01})

    head, _, *lines = compare.compare('HEAD', None, ['enqueue-single'], [NATIVE], 0.0)

    assert '| HEAD | working tree | ratio |' in head
    assert [line.split(' | ')[2] for line in lines] == ['tasks/s', 'client CPU, µs a task', 'server CPU, µs a task']
    assert all(' x | ' in line for line in lines)


@pytest.mark.server
def test_the_library_is_that_of_the_revision_and_failures_say_why(tmp_path: Path) -> None:
    (tmp_path / 'torrelque').mkdir()
    (tmp_path / 'torrelque/__init__.py').write_text('raise RuntimeError("an older one")')
    FOLDER.mkdir(exist_ok=True)

    with (
        Subject(NATIVE, 'floor', compare.SETTINGS, tmp_path) as subject,
        pytest.raises(FailedError, match='an older one'),
    ):
        subject.measure()


def test_a_ratio_is_that_of_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slower:
        """Whatever slows a turn down slows both: the ratio stays."""

        def __init__(self, variant: object, row: str, settings: object, library: Path | None = None) -> None:
            self._rate = {ROOT: 100.0, None: 400.0}.get(library, 50.0)

        def __enter__(self) -> Slower:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def measure(self) -> dict[str, Any]:
            self._rate /= 2
            return {'result': {'rate': self._rate, 'client_us': 1.0, 'server_us': 0.0}}

    monkeypatch.setattr(compare, 'Subject', Slower)
    monkeypatch.setattr(compare, 'exported', lambda revision: _At(Path(revision)))

    _, _, *lines = compare.compare('old', None, ['enqueue-single'], [NATIVE], 0.0)

    assert lines == [
        '| enqueue-single | native/uvloop | tasks/s | 12.5 | 25 | 2.000 x | 2.000 - 2.000 | 0.25 x |',
        '| enqueue-single | native/uvloop | client CPU, µs a task | 1 | 1 | 1.000 x | 1.000 - 1.000 | 1.00 x |',
    ]


class _At:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        return self._folder

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize(('count', 'bounds'), [(3, (1.0, 3.0)), (10, (2.0, 9.0)), (20, (6.0, 15.0))])
def test_the_interval_is_that_of_the_signs(count: int, bounds: tuple[float, float]) -> None:
    assert compare.interval([float(number + 1) for number in range(count)]) == bounds
