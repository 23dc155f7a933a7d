"""The native transport's stream over a Unix socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from torrelque.transports.native.unix import UnixStream, connect_unix

pytestmark = pytest.mark.anyio


@pytest.fixture
async def peer() -> AsyncIterator[tuple[UnixStream, socket.socket]]:
    """A stream, and what is at its other end."""
    raw, other = socket.socketpair(socket.AF_UNIX)
    raw.setblocking(False)  # noqa: FBT003 - the standard library's
    stream = UnixStream(raw)
    with other:
        yield stream, other
        await stream.aclose()


async def test_both_ways(peer: tuple[UnixStream, socket.socket]) -> None:
    stream, other = peer
    await stream.send(b'')
    await stream.send(b'there')
    assert other.recv(100) == b'there'
    other.sendall(b'and back')
    assert await stream.receive(3) == b'and'
    assert await stream.receive() == b' back'
    await stream.send_eof()
    assert other.recv(1) == b''
    other.close()
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()


async def test_more_than_the_socket_holds(peer: tuple[UnixStream, socket.socket]) -> None:
    stream, other = peer
    data = bytes(range(256)) * 8_000
    received = bytearray()

    def drain() -> None:
        while len(received) < len(data):
            received.extend(other.recv(65536))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, data)
        await anyio.to_thread.run_sync(drain)
    assert received == data


async def test_closing_wakes_who_waits(peer: tuple[UnixStream, socket.socket]) -> None:
    stream, _ = peer

    async def receive() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
        await stream.aclose()
        for attempt in (stream.receive(), stream.send(b'a')):
            with pytest.raises(anyio.ClosedResourceError):
                await attempt


async def test_a_peer_that_is_gone(peer: tuple[UnixStream, socket.socket]) -> None:
    stream, other = peer
    other.close()
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b'a')


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await connect_unix(str(tmp_path / 'none'))


async def test_a_full_backlog(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / 's'))
        listener.listen(0)
        streams: list[UnixStream] = []

        async def dial() -> None:
            streams.append(await connect_unix(str(tmp_path / 's')))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(dial)
                await anyio.wait_all_tasks_blocked()
                assert len(streams) < 5
                for _ in range(5):
                    (await anyio.to_thread.run_sync(listener.accept))[0].close()
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize('anyio_backend', ['asyncio'])
async def test_cancelled_as_something_arrives(peer: tuple[UnixStream, socket.socket]) -> None:
    """In one and the same turn of the event loop, the cancellation first."""
    stream, other = peer
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive)
            await anyio.wait_all_tasks_blocked()
            other.sendall(b'a')
            loop.call_soon(tasks.cancel_scope.cancel)
        assert await stream.receive() == b'a', 'nothing is lost'
    assert complaints == []
