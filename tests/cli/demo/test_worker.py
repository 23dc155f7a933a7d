"""The demonstration's worker: it hashes files in parts, and keeps its claim meanwhile."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from torrelque import Torrelque, TorrelqueTaskStatus
from torrelque.cli.demo import worker
from torrelque.cli.demo.worker import do, hash_parts
from torrelque.testing import MemoryTransport, VirtualClock

pytestmark = pytest.mark.anyio


def test_files_are_hashed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, 'PART', 4)
    file = tmp_path / 'file'
    for content, pauses in ((b'', 0), (b'abc', 0), (b'abcd', 1), (b'abcdefghi', 2)):
        file.write_bytes(content)
        assert list(hash_parts(str(file))) == [None] * pauses + [hashlib.sha256(content).hexdigest()]


async def test_a_file_a_missing_file_and_a_lost_claim(tmp_path: Path) -> None:
    file = tmp_path / 'file'
    file.write_bytes(b'content')
    clock = VirtualClock()
    async with Torrelque(MemoryTransport(clock=clock), queue='demo') as queue:
        await queue.enqueue(str(file), task_id='right', task_timeout=3)
        await queue.enqueue(str(tmp_path / 'none'), task_id='missing')
        await queue.enqueue(str(file), task_id='late', task_timeout=3)
        right, missing, late = await queue.dequeue(max_tasks=3)
        await do(queue, right, '7')
        await do(queue, missing, '7')
        await clock.advance(3)
        assert [task.id for task in await queue.dequeue_nowait()] == ['late']
        await do(queue, late, '7')
        state = await queue.get_task_state('right')
        assert state.result == {'sha256': hashlib.sha256(b'content').hexdigest(), 'worker': '7'}
        assert 'No such file' in ((await queue.get_task_state('missing')).reason or '')
        assert (await queue.get_task_state('late')).status is TorrelqueTaskStatus.WORKING
