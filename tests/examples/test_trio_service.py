"""The example of a service on Trio."""

from __future__ import annotations

import re
import signal

from tests.examples.support import output_of, running
from tests.servers import Server

EXAMPLE = 'examples/trio_service.py'


def test_it_works_and_stops_gracefully(server: Server) -> None:
    with running(EXAMPLE, 'work', server.url) as service:
        service.read_until('waiting for images')
        lines = output_of(EXAMPLE, 'produce', server.url).splitlines()
        assert sorted(lines) == sorted(f'{number}.png: COMPLETED small-{number}.png' for number in range(1, 11))
        for _ in range(10):
            service.read_until(': done')

        service.printed = ''
        with running(EXAMPLE, 'produce', server.url):
            service.read_until(': begun')
            service.process.send_signal(signal.SIGTERM)
            printed = service.read_to_the_end()
    assert printed.endswith('stopped\n')
    begun = re.findall(r'(\S+): begun', printed)
    ended = re.findall(r'(\S+): done|OSError: (\S+) cannot be read', printed)
    assert len(begun) == len(ended)
    assert server.command('ZCARD', 'thumbnails:working') == 0
