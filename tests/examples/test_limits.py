"""The example of limits."""

from __future__ import annotations

import re

from tests.examples.support import output_of
from tests.servers import Server


def test_limits_are_kept(server: Server) -> None:
    output = output_of('examples/limits.py', server.url)
    *calls, last = output.splitlines()
    assert len(calls) == 12
    match = re.fullmatch(r'12 calls in (.*) s, at most (\d) at once', last)
    assert match is not None
    assert float(match[1]) >= 7 / 5
    assert int(match[2]) <= 3
