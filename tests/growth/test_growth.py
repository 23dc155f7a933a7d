"""Every pattern of use holds no more after many rounds than after few: on every client, the event loops in turn.

``python -m tests.growth`` is the long form.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice

import pytest

from tests.growth.measuring import Pattern, measure
from tests.growth.patterns import PATTERNS
from tests.growth.stage import KINDS, Setting
from tests.servers import MissingServerError

SHARDED = (
    'idle_worker', 'lone_tasks', 'delayed_tasks', 'calls_at_once', 'bulk_calls', 'looking', 'cut_connections',
    'queues_entered_and_left', 'module_functions', 'watchers_that_leave',
)  # fmt: skip
"""Patterns that are also run on queues with shards, on a native client."""

CLUSTERED = (
    'idle_worker', 'lone_tasks', 'bulk_calls', 'queues_entered_and_left', 'queues_dropped', 'module_functions',
    'watchers_that_leave', 'waits_beside_an_open_watch', 'waits_for_finished_tasks', 'clients_opened_and_closed',
)  # fmt: skip
"""Patterns that are also run on clusters."""


def settings() -> Iterator[tuple[Pattern, Setting]]:
    """Each pattern on each client, whose event loops take turns."""
    turns = {client: cycle(loops) for client, loops in KINDS.items()}
    for pattern in PATTERNS.values():
        for client in KINDS:
            if client.endswith('-cluster') and pattern.name not in CLUSTERED:
                continue
            chosen = next((each for each in _turns(client, turns[client]) if pattern.runs_on(each)), None)
            if chosen is not None:
                yield pattern, chosen
        if pattern.name in SHARDED:
            yield pattern, next(each for each in _turns('native', turns['native'], 4) if pattern.runs_on(each))


def _turns(client: str, turns: Iterator[str], shards: int | None = None) -> Iterator[Setting]:
    for loop in islice(turns, len(KINDS[client])):
        yield Setting(client, loop, shards)


@pytest.mark.parametrize(
    ('pattern', 'setting'),
    [pytest.param(*each, id=f'{each[0].name}-{each[1]}') for each in settings()],
)
def test_nothing_grows(pattern: Pattern, setting: Setting) -> None:
    try:
        report = measure(pattern, setting)
    except MissingServerError as error:
        pytest.skip(str(error))
    if report.growing():
        pytest.fail(str(report), pytrace=False)
