"""The example of several queues with one worker."""

from __future__ import annotations

import re

from tests.examples.support import output_of
from tests.servers import Server


def test_weights_and_reserved_slots(server: Server) -> None:
    first, second = output_of('examples/priority_queues.py', server.url).splitlines()
    counts = map(int, re.findall(r' (\d+) (?=c|d|l)', first))
    for count, share in zip(counts, (60, 30, 10), strict=True):
        assert abs(count - share) <= 6
    match = re.fullmatch(r'an urgent task beside long ones took (.*) s', second)
    assert match is not None
    assert float(match[1]) < 0.8, 'a long one takes 1 s'
