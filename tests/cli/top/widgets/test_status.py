"""The first line of each screen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from torrelque.cli.top.styles import BAD, CALM, WARN
from torrelque.cli.top.widgets.status import StatusLine, _right


def right(**state: Any) -> Any:  # noqa: ANN401 - attributes of a monitor
    return _right(cast('Any', SimpleNamespace(**{'connected': True, 'away': '', 'server_time': None, **state})))


def test_the_servers_state() -> None:
    assert (right(connected=False).plain, right(connected=False).style) == ('○ connecting', WARN)
    assert right().plain == '●'
    assert right(server_time=86_400 * 365 + 3723).plain == '01:02:03 UTC ●'
    away = right(away='refused', away_for=200.0)
    assert (away.plain, away.style) == ('● away for 3m 20s, trying again', f'bold {BAD}')


def test_the_way_to_the_screen() -> None:
    line = StatusLine('redis://host', 'mail', '\x1b[31m')._left()
    assert line.plain == 'torrelque top  redis://host / mail / \\x1b[31m'
    assert any(str(span.style) == CALM for span in line.spans)
