"""The example of periodic tasks."""

from __future__ import annotations

import re

from tests.examples.support import output_of
from tests.servers import Server


def test_each_time_adds_one_task(server: Server) -> None:
    *tasks, last = output_of('examples/schedules.py', server.url).splitlines()
    match = re.fullmatch(r'(\d+) tasks, 0 of them twice', last)
    assert match is not None
    assert len(tasks) == int(match[1]) >= 9
    assert {line.split('@')[0].strip() for line in tasks} == {'report', 'ping'}
