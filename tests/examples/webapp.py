"""The web application as a process of its own, and a client of it that is no browser."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.examples.support import PATIENCE, PYTHON, ROOT

Event = dict[str, Any]


class WebApp:
    """A running application: its process, and what it serves."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.address = f'http://localhost:{port}/'

    @contextmanager
    def request(self, method: str, path: str, **fields: str) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        try:
            headers = {'Content-Type': 'application/x-www-form-urlencoded'} if fields else {}
            connection.request(method, path, urlencode(fields) or None, headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def status_of(self, method: str, path: str, **fields: str) -> int:
        with self.request(method, path, **fields) as response:
            return response.status

    def start(self, name: str, failures: int) -> str:
        """Start a task; its id."""
        with self.request('POST', '/tasks', name=name, failures=str(failures)) as response:
            assert response.status == 200
            task_id = json.load(response)['id']
            assert isinstance(task_id, str)
            return task_id

    @contextmanager
    def follow(self, *ids: str) -> Iterator[Iterator[Event]]:
        """The events of a stream about these tasks, until it ends or is left."""
        with self.request('GET', '/events?' + urlencode([('id', id_) for id_ in ids])) as response:
            assert response.status == 200
            assert response.headers['Content-Type'] == 'text/event-stream'
            yield events_of(response)


def events_of(response: http.client.HTTPResponse) -> Iterator[Event]:
    while line := response.readline():
        field, _, text = line.decode().rstrip('\n').partition(': ')
        assert field == 'data'
        assert response.readline() == b'\n'
        yield json.loads(text)


@contextmanager
def serving(log: Path, *options: str) -> Iterator[WebApp]:
    """The application, on a free port. At the end its log has nothing that should not be there."""
    with log.open('w') as stderr:
        process = subprocess.Popen(
            [*PYTHON, '-m', 'examples.webapp', '--port', '0', *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
        )
    try:
        assert process.stdout is not None
        said = re.fullmatch(r'Open http://localhost:(\d+)/ \(Ctrl-C stops\)\n', process.stdout.readline())
        assert said, log.read_text(encoding='utf-8')
        yield WebApp(process, int(said[1]))
        process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text(encoding='utf-8')
    finally:
        process.kill()
        process.communicate()
    written = log.read_text(encoding='utf-8')
    assert not re.search(r'Warning|Exception ignored|tornado\.application|asyncio', written), written
