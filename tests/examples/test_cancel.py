"""The example of cancelling running tasks."""

from __future__ import annotations

from tests.examples.support import output_of
from tests.servers import Server


def test_running_tasks_are_cancelled(server: Server) -> None:
    lines = output_of('examples/cancel.py', server.url).splitlines()
    assert {line for line in lines if line.split(':')[0] in {'ended', 'gentle', 'stubborn'}} == {
        'ended: removed',
        'gentle: removed',
        'stubborn: finished all the same',
    }
    assert {'ended cleans up', 'gentle cleans up'} <= set(lines)
