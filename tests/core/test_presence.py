"""Announcements that are none, or too old, are left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.core.support import SCRIPTS
from torrelque.core.keys import Keys
from torrelque.core.presence import announce, list_workers, read_worker, retract
from torrelque.core.protocol import Call, blocking_drive
from torrelque.testing import MemoryServer

KEYS = Keys.of_queue('q')
SAID: dict[str, Any] = {'name': 'n', 'host': 'h', 'pid': 7, 'concurrency': 3, 'running': 2, 'consumer': 'c'}


def text(said: object) -> bytes:
    return b'100.500000 40.250000 ' + json.dumps(said).encode()


def test_an_announcement() -> None:
    worker = read_worker(b'w', text({**SAID, 'later': 'versions may say more'}))
    assert worker is not None
    assert (worker.id, worker.name, worker.host, worker.pid) == ('w', 'n', 'h', 7)
    assert (worker.since, worker.seen) == (40.25, 100.5)
    assert (worker.concurrency, worker.running, worker.consumer) == (3, 2, 'c')


@pytest.mark.parametrize(
    'damaged',
    [
        b'', b'x', b'1 2', b'1 2 ', b'1 2 {', b'1 2 \xff', b'1 2 []', b'1 2 3', b'x 2 ' + text(SAID)[21:],
        b'nan 2 ' + text(SAID)[21:], text({}), text({**SAID, 'pid': '7'}), text({**SAID, 'running': True}),
        text({**SAID, 'name': None}), b'1 2 ' + b'[' * 100_000,
    ],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_what_is_none(damaged: bytes) -> None:
    assert read_worker(b'w', damaged) is None


def test_an_id_that_is_no_text() -> None:
    assert read_worker(b'\xff', text(SAID)) is None


def test_what_is_listed() -> None:
    now = 1000.0
    server = MemoryServer(lambda: now)

    def names() -> list[str]:
        cursor, found = blocking_drive(list_workers(SCRIPTS, KEYS, b'0'), server.execute)
        assert cursor == b'0'
        return [worker.id for worker in found]

    blocking_drive(announce(SCRIPTS, KEYS, 'old', 5.0, **SAID), server.execute)
    server.call(Call('HSET', (KEYS['workers'],), ('odd', 'x')))
    now = 1020.0
    blocking_drive(announce(SCRIPTS, KEYS, 'new', 5.0, **SAID), server.execute)
    assert server.call(Call('HLEN', (KEYS['workers'],))) == 2, 'what is no announcement was removed'
    assert names() == ['old', 'new']
    now = 1031.0
    assert names() == ['new']
    blocking_drive(retract(SCRIPTS, KEYS, 'new'), server.execute)
    assert server.snapshot() == {}
