"""The native transport, when connections break."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from tests.transports.fake import CUT, PONG, SILENCE, bulk, echo, fake_server
from tests.transports.native_support import Start, ask, call, multiplexer_of, until
from torrelque.core.protocol import Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueResponseTimeout,
)
from torrelque.transports.native import (
    connect,
)

pytestmark = pytest.mark.anyio


async def test_calls_survive_a_restart(fresh_server: Start) -> None:
    server = fresh_server()
    counts = [0] * 20
    stopped = False

    async def caller(number: int) -> None:
        while not stopped:
            text = f'{number}-{counts[number]}'.encode()
            assert await client.execute([call('ECHO', text), call('ECHO', b'2' + text)]) == [text, b'2' + text]
            counts[number] += 1

    async def further(by: int) -> None:
        aims = [count + by for count in counts]
        await until(lambda: all(count >= aim for count, aim in zip(counts, aims, strict=True)))

    async with connect(server.url) as client, anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(caller, number)
        for _ in range(3):
            await further(by=5)
            server.kill()
            await anyio.sleep(0.05)
            server.start()
        await further(by=5)
        stopped = True


@pytest.mark.parametrize('cut', [1, 9, 14, 15, 20, 25, 30])
async def test_a_half_delivered_reply_is_asked_for_again(cut: int) -> None:
    batch = [call('ECHO', 'one'), call('ECHO', 'two')]
    async with (
        fake_server(echo, cut_after={number: len(PONG) * 2 + cut for number in (1, 2)}) as fake,
        connect(fake.url) as client,
    ):
        assert await client.execute(batch) == [b'one', b'two']
        assert await client.execute(batch) == [b'one', b'two']
        assert fake.connections > 1


async def test_repeats_keep_the_order_and_leave_out_the_cancelled() -> None:
    replies: list[Reply] = []

    async def caller(name: str) -> None:
        replies.append(await ask(client, 'ECHO', name))

    def answer(number: int, words: list[bytes]) -> bytes | None:
        return CUT if words[1] == b'cut' and number == 1 else echo(number, words) if number > 1 else SILENCE

    async with fake_server(answer) as fake, connect(fake.url) as client, anyio.create_task_group() as group:
        async with anyio.create_task_group() as cancelled:
            for count, name in enumerate('abc', 1):
                (cancelled if name == 'b' else group).start_soon(caller, name)
                await fake.until_received(count)
            cancelled.cancel_scope.cancel()
        await caller('cut')
    assert [(number, words[1]) for number, words in fake.received] == [
        *((1, name) for name in (b'a', b'b', b'c', b'cut')),
        *((2, name) for name in (b'a', b'c', b'cut')),
    ]
    assert sorted(map(str, replies)) == ["b'a'", "b'c'", "b'cut'"]


async def test_what_was_not_sent_stays_behind_what_is_repeated(fresh_server: Start) -> None:
    server = fresh_server()
    replies: list[Reply] = []

    async def get() -> None:
        replies.append(await ask(client, 'STRLEN', 'a'))

    async with connect(server.url) as client, anyio.create_task_group() as group:
        os.kill(server.pid, signal.SIGSTOP)
        for _ in range(16):
            group.start_soon(ask, client, 'SET', 'a', bytes(2**20))  # more than the kernel takes
        await anyio.wait_all_tasks_blocked()
        group.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        server.restart()
    assert replies == [2**20]


async def test_a_call_cancelled_before_it_is_sent_is_not_sent(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client, anyio.create_task_group() as group:
        os.kill(server.pid, signal.SIGSTOP)
        for _ in range(16):
            group.start_soon(ask, client, 'SET', 'a', bytes(2**20))  # keeps the writer busy
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(ask, client, 'SET', 'a', 'cancelled')
            await anyio.wait_all_tasks_blocked()
            cancelled.cancel_scope.cancel()
        os.kill(server.pid, signal.SIGCONT)
        assert await ask(client, 'STRLEN', 'a') == 2**20


async def test_nobody_is_waited_for_after_all_were_cancelled(fresh_server: Start) -> None:
    server = fresh_server()
    async with connect(server.url) as client:
        server.kill()
        with anyio.move_on_after(0.05):
            await ask(client, 'ECHO', 'x')
        multiplexer = multiplexer_of(client)
        await until(lambda: not multiplexer._queue)


async def test_without_a_budget_nothing_is_sent_twice() -> None:
    cut = True
    async with (
        fake_server(lambda number, words: CUT if cut else echo(number, words)) as fake,
        connect(fake.url, retry_timeout=0) as client,
    ):
        with pytest.raises(TorrelqueConnectionError, match='the server closed the connection'):
            await ask(client, 'ECHO', 'a')
        cut = False
        assert await ask(client, 'ECHO', 'b') == b'b'
        assert [words[1] for _, words in fake.received] == [b'a', b'b']


async def test_the_budget_ends(fresh_server: Start) -> None:
    server = fresh_server()
    errors: list[TorrelqueConnectionError] = []

    async def caller() -> None:
        with pytest.raises(TorrelqueConnectionError) as caught:
            await ask(client, 'ECHO', 'x')
        errors.append(caught.value)

    async with connect(server.url, retry_timeout=0.3) as client:
        server.kill()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(caller)
        assert len({id(error) for error in errors}) == 5
        assert all(f'127.0.0.1:{server.port}: cannot connect: ' in str(error) for error in errors)
        server.start()
        assert await ask(client, 'ECHO', 'x') == b'x'


async def test_no_server(free_tcp_port: int, tmp_path: Path) -> None:
    with pytest.raises(TorrelqueConnectionError, match=f'^127.0.0.1:{free_tcp_port}: cannot connect: '):
        await connect(f'redis://127.0.0.1:{free_tcp_port}', retry_timeout=0.1).__aenter__()
    with pytest.raises(TorrelqueConnectionError, match='No such file'):
        await connect(f'unix://{tmp_path}/none', retry_timeout=0).__aenter__()


async def test_a_silent_connection_is_dropped() -> None:
    async with (
        fake_server(lambda number, words: SILENCE if number == 1 else echo(number, words)) as fake,
        connect(fake.url, response_timeout=0.2) as client,
    ):
        assert await ask(client, 'ECHO', 'x') == b'x'
        assert [number for number, _ in fake.received] == [1, 2]


async def test_a_silent_server_is_given_up() -> None:
    async with (
        fake_server(lambda _number, _words: SILENCE) as fake,
        connect(fake.url, response_timeout=0.1, retry_timeout=0.25) as client,
    ):
        with anyio.fail_after(20), pytest.raises(TorrelqueResponseTimeout, match=r'no answer for 0\.1 s'):
            await ask(client, 'ECHO', 'x')
        assert fake.connections > 1


async def test_a_server_that_hangs_while_connecting_is_given_up() -> None:
    async with fake_server(echo, pong=lambda _: SILENCE) as fake:
        with anyio.fail_after(20), pytest.raises(TorrelqueResponseTimeout, match=r'connected, but no answer'):
            await connect(fake.url, connect_timeout=0.1, retry_timeout=0.25).__aenter__()
        assert fake.connections > 1


async def test_a_slow_server_is_not_a_silent_one() -> None:
    """Each piece that arrives restarts the response time-out."""
    slow = bulk(b'x' * 40)
    async with (
        await anyio.create_tcp_listener(local_host='127.0.0.1') as server,
        anyio.create_task_group() as group,
    ):
        connections = 0

        async def dribble(stream: anyio.abc.SocketStream) -> None:
            nonlocal connections
            connections += 1
            async with stream:
                for _ in range(2):  # of the handshake, and of entering
                    await stream.receive()
                    await stream.send(PONG)
                await stream.receive()
                for start in range(len(slow)):
                    await anyio.sleep(0.02)
                    await stream.send(slow[start : start + 1])

        group.start_soon(server.serve, dribble)
        port = server.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
        async with connect(f'redis://127.0.0.1:{port}', response_timeout=0.4) as client:
            assert await ask(client, 'GET', 'a') == b'x' * 40
        assert connections == 1
        group.cancel_scope.cancel()


@pytest.mark.parametrize('garbage', [b'@nonsense\r\n', b'$3\r\nabcde\r\n', b'+one\r\n+too many\r\n'])
async def test_a_connection_out_of_step_is_dropped(garbage: bytes) -> None:
    async with (
        fake_server(lambda number, words: garbage if number == 1 else echo(number, words)) as fake,
        connect(fake.url) as client,
    ):
        assert await client.execute([call('ECHO', 'a'), call('ECHO', 'b')]) in ([b'a', b'b'], [b'one', b'too many'])
        multiplexer = multiplexer_of(client)
        await until(lambda: multiplexer._connection is None or fake.connections == 2)  # the last of it is there
        assert await ask(client, 'ECHO', 'x') == b'x'
        assert fake.connections == 2
