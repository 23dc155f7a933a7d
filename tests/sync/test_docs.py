"""What the pages on synchronous code, scripts and Flask show works."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import servers
from tests.test_docs import blocks
from torrelque import TorrelqueConnectionError, sync

PATIENCE = 30.0


@pytest.fixture
def server() -> servers.Server:
    shared = servers.shared('valkey-9.1')
    shared.flush()
    return shared


@pytest.fixture
def client(server: servers.Server) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(server.url)) as client:
        yield client


def write_files(page: str, folder: Path) -> None:
    """Each block that begins with a file's name is that file."""
    for block in blocks(page, 'python'):
        name, _, code = block.partition('\n')
        if name.startswith('# ') and name.endswith('.py'):
            path = folder / name.removeprefix('# ')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding='utf-8')


def test_the_page_on_synchronous_code(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, 'Redis', lambda: client)
    names: dict[str, Any] = {}
    first, pipeline, wait, consume = blocks('synchronous', 'python')
    exec(first, names)  # noqa: S102 - what the page shows
    queue = names['queue']
    queue.release(queue.dequeue(5), result=1)
    exec(wait, names)  # noqa: S102 - what the page shows
    exec(pipeline, names)  # noqa: S102 - what the page shows
    assert client.get('orders') == b'1'
    queue = names['queue']
    queue.enqueue('bad')
    rounds = iter([False, False, False, True])
    seen: list[Any] = []

    def send(data: Any) -> None:  # noqa: ANN401 - a payload
        seen.append(data)
        if data == 'bad':
            raise ValueError(data)

    outages = ['refused']

    class Flaky(sync.Torrelque):
        def dequeue(self, timeout: float) -> Any:  # type: ignore[override]  # noqa: ANN401 - a task
            if outages:
                raise TorrelqueConnectionError(outages.pop())
            return super().dequeue(timeout)

    monkeypatch.setattr(time, 'sleep', lambda _: None)
    queue.__class__ = Flaky
    exec(consume, {**names, 'stopping': lambda: next(rounds), 'send': send})  # noqa: S102 - what the page shows
    assert seen == [{'to': 'ann@example.org'}, 'bad']
    ((_, state),) = queue.rejected()
    assert state.reason == "ValueError('bad')"
    queue.close()


def test_scripts(server: servers.Server, tmp_path: Path) -> None:
    write_files('scripts', tmp_path)
    (tmp_path / 'lines.txt').write_text('one\ntwo\n', encoding='utf-8')

    def start(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, '-W', 'error', name, server.url, *arguments]
        return subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE)

    adding = start('add.py', 'lines.txt')
    with closing(redis.Redis.from_url(server.url)) as client:
        deadline = time.monotonic() + PATIENCE
        while not client.keys('lines:task:*') or not client.pubsub_channels():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert start('work.py').communicate(timeout=PATIENCE)[0] == ''
    assert adding.communicate(timeout=PATIENCE)[0] == '2 tasks added\nTWO\n'
    assert start('look.py').communicate(timeout=PATIENCE)[0] == '0 pending\n0 sent back\n'


def test_flask(server: servers.Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('flask')
    write_files('flask', tmp_path)
    monkeypatch.setenv('REDIS_URL', server.url)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {'__name__': 'shop'}
    exec((tmp_path / 'shop.py').read_text(encoding='utf-8'), names)  # noqa: S102 - what the page shows
    browser = names['app'].test_client()
    with closing(names['client']), closing(names['queue']):
        answer = browser.post('/mail', json={'to': 'joe@example.org'})
        assert answer.status_code == 202
        task_id = answer.json['id']
        assert browser.get(f'/mail/{task_id}').json == {'status': 'PENDING', 'result': None}
        assert browser.get('/mail/x').status_code == 404
        with subprocess.Popen([sys.executable, '-W', 'error', 'mailer.py'], cwd=tmp_path) as mailer:
            assert sync.Torrelque(client, queue='mail').wait(task_id, PATIENCE).result == 'sent'
            mailer.terminate()
            assert mailer.wait(PATIENCE) == 0
        assert browser.get(f'/mail/{task_id}').json == {'status': 'COMPLETED', 'result': 'sent'}
