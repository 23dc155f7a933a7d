"""What fails in a long run is shown in a short one."""

from __future__ import annotations

import sys

import pytest

from tests.simulation import __main__ as command
from tests.simulation.configs import CONFIGS, Config
from tests.simulation.mutants import MUTANTS
from tests.simulation.rules import Violation
from tests.simulation.trimming import Failure, Trimmed, failure_of, trim

LONG = 150
"""Choices that a run has made, at least, when it is worth trimming: that is a trace of some 200 to 1,500 lines."""

SHORT = 60
"""Lines."""

FAILURES = 5

SECONDS = 10
"""Of the processor's time, for each failure. A few take minutes to trim, as they depend on much that happens before."""


FIRST_SEEDS = {'no filter on a repeated claim': 12, 'no tombstone on settle': 30}
"""Which are trimmed soon, where another is chosen first that takes all the time."""


def _some_failures(config: Config, choices: int = LONG, first: int | None = None) -> list[tuple[int, Failure]]:
    """Seeds that fail after that many choices. In front are the ``first`` and the one that fails soonest."""
    failures: list[tuple[int, Failure]] = []
    for seed in range(200):
        failure = failure_of(seed, config)
        if failure is not None and len(failure.made) >= choices:
            failures.append((seed, failure))
            if len(failures) == FAILURES:
                break
    assert failures
    return sorted(failures, key=lambda each: (each[0] != first, len(each[1].made)))


def _is_short(trimmed: Trimmed, whole: Failure) -> bool:
    lines = 0 < len(trimmed.lines) <= min(SHORT, trimmed.whole_lines / 4)
    return lines and len(trimmed.failure.made) <= len(whole.made) / 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    'name',
    [
        'no tombstone on settle',
        'no token in the fence',
        'no filter on a repeated claim',
        'no delivery limit',
        'settle undoes nothing',
        'hint not put back by who leaves',
        'no hint after a claim',
        'nothing given back',
        'giveback made only once',
    ],
)
def test_a_failure_is_trimmed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config_name, mutate = MUTANTS[name]
    config = CONFIGS[config_name]
    mutate(monkeypatch)
    for seed, whole in _some_failures(config, first=FIRST_SEEDS.get(name)):
        trimmed = trim(seed, config, whole, SECONDS)
        if _is_short(trimmed, whole):
            break
    assert isinstance(whole.error, Violation)
    assert isinstance(trimmed.failure.error, Violation)
    assert trimmed.failure.error.text == whole.error.text
    assert _is_short(trimmed, whole)
    again = failure_of(seed, config, trimmed.failure.made)
    assert again is not None
    assert str(again.error) == str(trimmed.failure.error)


def test_without_time_the_failure_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config_name, mutate = MUTANTS['no tombstone on settle']
    mutate(monkeypatch)
    seed, whole = _some_failures(CONFIGS[config_name])[0]
    trimmed = trim(seed, CONFIGS[config_name], whole, 0)
    assert (trimmed.runs, trimmed.failure) == (0, whole)


def test_an_error_of_the_core_is_a_failure_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr('torrelque.core.session.Session.leave', broken)
    seed, whole = _some_failures(CONFIGS['calm'], 1)[0]
    assert isinstance(whole.error, ZeroDivisionError)
    assert isinstance(trim(seed, CONFIGS['calm'], whole).failure.error, ZeroDivisionError)


@pytest.mark.parametrize('arguments', ['--seed 2 --trim', '--first 2 --seeds 1'])
def test_the_command_prints_it(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, mutate = MUTANTS['extend shortens']
    mutate(monkeypatch)
    monkeypatch.setattr(sys, 'argv', ['simulation', '--config', 'alone', *arguments.split()])
    assert command.main() == 1
    out = capsys.readouterr().out
    assert 'Violation: a lease shrank' in out
    assert ' choices of ' in out
    assert len(out.splitlines()) < SHORT
