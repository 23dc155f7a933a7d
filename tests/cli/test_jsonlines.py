"""Lines of JSON from files and pipes."""

from __future__ import annotations

import io
import os

import anyio
import pytest

from torrelque.cli.errors import Refusal
from torrelque.cli.jsonlines import Line, check_json, read_lines

pytestmark = pytest.mark.anyio


class Parts(io.BytesIO):
    """Is read in these parts."""

    def __init__(self, *parts: bytes) -> None:
        super().__init__()
        self._parts = list(parts)

    def read1(self, size: int | None = -1, /) -> bytes:
        return self._parts.pop(0) if self._parts else b''


async def read(*parts: bytes) -> list[list[Line]]:
    return [lines async for lines in read_lines(Parts(*parts), 'tasks')]


async def test_lines_are_numbered_and_know_where_they_end() -> None:
    assert await read(b'1\n  "two" \n\n{"three": 3}\n') == [
        [Line(1, b'1', 2), Line(2, b'"two"', 11), Line(4, b'{"three": 3}', 25)]
    ]


async def test_lines_that_come_in_parts() -> None:
    assert await read(b'1\n"a', b' long', b' line"\n2\n', b'3') == [
        [Line(1, b'1', 2)],
        [Line(2, b'"a long line"', 16), Line(3, b'2', 18)],
        [Line(4, b'3', 20)],
    ]


async def test_nothing() -> None:
    assert await read() == []
    assert await read(b'\n \n') == []


async def test_lines_before_a_mistake_are_yielded() -> None:
    batches = read_lines(Parts(b'1\n2\n3,\n4\n'), 'tasks')
    assert [line.text for line in await anext(batches)] == [b'1', b'2']
    with pytest.raises(Refusal, match=r'tasks, line 3 is not JSON: '):
        await anext(batches)


async def test_a_pipe_is_read_as_it_is_written() -> None:
    reading, writing = os.pipe()
    with open(reading, 'rb') as stream, open(writing, 'wb', buffering=0) as pipe:  # noqa: ASYNC230, PTH123 - a pipe
        lines = read_lines(stream, 'pipe')
        pipe.write(b'1\n')
        assert [line.text for line in await anext(lines)] == [b'1']
        async with anyio.create_task_group() as group:

            async def write() -> None:
                await anyio.wait_all_tasks_blocked()
                pipe.write(b'2\n')

            group.start_soon(write)
            assert [line.text for line in await anext(lines)] == [b'2']
        pipe.close()
        assert [each async for each in lines] == []


@pytest.mark.parametrize('text', ['', '{', 'nul', '[' * 100_000, b'\xff'])
def test_what_is_not_json(text: str | bytes) -> None:
    with pytest.raises(Refusal, match=r'^the payload is not JSON: '):
        check_json(text, 'the payload')


def test_what_is() -> None:
    check_json(b'{"a": [1, null]}', 'the payload')
