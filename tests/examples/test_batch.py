"""The example of a batch, and the benchmark."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.examples.support import PATIENCE, PYTHON, ROOT, output_of
from tests.servers import Server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files with 0, 1, ... 119 lines, and one that is no text."""
    for number in range(120):
        (tmp_path / f'{number}.py').write_text('pass\n' * number)
    (tmp_path / 'bad.py').write_bytes(b'\xff\xfe\xfd')
    return tmp_path


EXPECTED = (
    r'121 files enqueued\n'
    rf'120 files counted: {sum(range(120))} lines\n'
    r"not counted: \S+/bad\.py: 'utf-8' codec can't decode .*\n"
)


def test_every_file_is_counted_or_named(folder: Path, server: Server) -> None:
    assert re.fullmatch(EXPECTED, output_of('examples/batch.py', server.url, folder))
    assert [server.command('LLEN', 'line-count:pending'), server.command('ZCARD', 'line-count:working')] == [0, 0]
    # Pills that interrupted runs have left end nobody.
    ids = [f'pill-{number}' for number in range(10)]
    server.command('HSET', 'line-count:tasks', *[word for id_ in ids for word in (id_, 'null')])
    server.command('LPUSH', 'line-count:pending', *ids)
    assert re.fullmatch(EXPECTED, output_of('examples/batch.py', server.url, folder))
    assert [server.command('LLEN', 'line-count:pending'), server.command('ZCARD', 'line-count:working')] == [0, 0]


RATES = r'enqueued: [\d,]+ tasks/s\ndequeued and released: [\d,]+ tasks/s\n'


@pytest.mark.parametrize(
    ('loop', 'client', 'bulk'),
    [('asyncio', 'native', 1), ('uvloop', 'redis-py', 7), ('trio', 'coredis', 7)],
)
def test_the_benchmark(loop: str, client: str, bulk: int, server: Server) -> None:
    options = f'--tasks 300 --bulk {bulk} --concurrency 4 --loop {loop} --client {client}'.split()
    assert re.fullmatch(RATES, output_of('examples/benchmark.py', *options, '--url', server.url))


def test_the_benchmark_brings_its_own_server() -> None:
    assert re.fullmatch(RATES, output_of('examples/benchmark.py', '--tasks', '10', '--concurrency', '20'))


def test_redis_py_is_not_for_trio() -> None:
    ended = subprocess.run(
        [*PYTHON, 'examples/benchmark.py', '--client', 'redis-py', '--loop', 'trio'],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 2
    assert ended.stderr.endswith('redis-py runs on asyncio only\n')
