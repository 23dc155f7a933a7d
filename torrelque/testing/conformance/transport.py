"""Tests of the transport interface's contract."""

from __future__ import annotations

import math
from collections.abc import Sequence

import anyio
import pytest

from torrelque.core.protocol import Call, Reply, Script
from torrelque.engine.driving import drive
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueReplyError
from torrelque.testing.conformance.support import PATIENCE, OnClient, ask, block_and, call, eventually, unique_key
from torrelque.transports.base import Listener, Message, Transport

__all__ = ('ServerConformance', 'TransportConformance')


def wait_for_hint(key: str, seconds: float) -> Call[Reply]:
    return Call('BZPOPMIN', (key,), (f'{seconds:.3f}',))


async def confirmed(listener: Listener, channel: bytes) -> None:
    await listener.subscribe(channel)
    assert await listener.receive() == Message(channel, None)


async def publish(transport: Transport, channel: bytes, data: bytes) -> Reply:
    """Publish like the scripts: to the shard of a cluster, if its servers support that."""
    if transport.on_cluster:
        # No arguments: old servers repeat them in errors, and some clients reject errors that are not UTF-8.
        (refusal,) = await transport.execute([Call('SPUBLISH', near=channel)])
        if 'unknown command' not in str(refusal):
            return await ask(transport, 'SPUBLISH', channel, data)
    return await ask(transport, 'PUBLISH', channel, data)


async def kill(transport: Transport, key: str, *words: str) -> Reply:
    """Close connections on the server that has the key."""
    (reply,) = await transport.execute([Call('CLIENT KILL', args=words, near=key)])
    return reply


async def unheard(transport: Transport, channel: bytes) -> None:
    """Wait until the channel has no listener."""

    async def nobody_listens() -> bool:
        listeners: int = await publish(transport, channel, b'unheard')
        return listeners == 0

    await eventually(nobody_listens)


class TransportConformance(OnClient):
    """Tests of commands, errors as values, blocking, subscriptions, cancellation and the clock."""

    # Execute ---------------------------------------------------------------------------------------------------------

    async def test_one_call(self, transport: Transport) -> None:
        key = unique_key()
        assert list(await transport.execute([call('LPUSH', key, 'a')])) == [1]
        assert list(await transport.execute([call('LRANGE', key, 0, -1)])) == [[b'a']]

    async def test_no_call(self, transport: Transport) -> None:
        assert list(await transport.execute([])) == []

    async def test_calls_are_answered_in_order(self, transport: Transport) -> None:
        key = unique_key()
        calls = [call('HSET', key, f'field {number}', number) for number in range(100)]
        calls += [call('HGET', key, f'field {number}') for number in reversed(range(100))]
        replies = list(await transport.execute(calls))
        assert replies == [1] * 100 + [str(number).encode() for number in reversed(range(100))]

    async def test_calls_that_are_executed_apart(self, transport: Transport) -> None:
        key = unique_key()
        calls = [call('LPUSH', key, 'a'), call('HGET', key, 'no hash'), call('LRANGE', key, 0, -1)]
        for count in (1, 2, 3):  # also on a reused connection
            pushed, error, listed = await transport.execute_dedicated(calls, 0.1)
            assert isinstance(error, TorrelqueReplyError)
            assert error.code == 'WRONGTYPE'
            assert (pushed, listed) == (count, [b'a'] * count)

    async def test_strings_are_bytes_whatever_they_hold(self, transport: Transport) -> None:
        key = unique_key()
        values = [b'', b'text', 'gr\u00fc\u00df'.encode(), b'\x00\r\n\xff\xfe', b'1', b'1.5', bytes(range(256))]
        await transport.execute([call('LPUSH', key, *values), call('HSET', key + 'h', b'\xff', b'\x00')])
        listed, got, missing = await transport.execute(
            [call('LRANGE', key, 0, -1), call('HGET', key + 'h', b'\xff'), call('HGET', key + 'h', 'none')]
        )
        assert list(reversed(listed)) == values
        assert (got, missing) == (b'\x00', None)

    async def test_missing_values_within_a_list(self, transport: Transport) -> None:
        key = unique_key()
        await ask(transport, 'HSET', key, 'b', '2')
        assert list(await ask(transport, 'HMGET', key, 'a', 'b', 'c')) == [None, b'2', None]

    async def test_an_error_is_a_value_and_the_rest_is_done(self, transport: Transport) -> None:
        key = unique_key()
        done, error, got = await transport.execute(
            [call('HSET', key, 'a', '1'), call('LPUSH', key, 'x'), call('HGET', key, 'a')]
        )
        assert (done, got) == (1, b'1')
        assert isinstance(error, TorrelqueReplyError)
        assert error.code == 'WRONGTYPE'
        assert 'wrong kind of value' in str(error)

    async def test_an_error_alone_is_a_value(self, transport: Transport) -> None:
        key = unique_key()
        await ask(transport, 'HSET', key, 'a', '1')
        error = await ask(transport, 'LRANGE', key, 0, -1)
        assert isinstance(error, TorrelqueReplyError)
        assert error.code == 'WRONGTYPE'

    async def test_an_unknown_script_is_told_by_its_code(self, transport: Transport) -> None:
        nobody_has_it = Script('unknown', f"return '{unique_key()}'", ())
        alone = [Call[Reply](nobody_has_it)]
        for batch in (alone, [call('HGET', unique_key(), 'a'), *alone]):
            error = (await transport.execute(batch))[-1]
            assert isinstance(error, TorrelqueReplyError)
            assert error.code == 'NOSCRIPT'

    async def test_long_calls_and_replies(self, transport: Transport) -> None:
        key, large = unique_key(), b'x' * 1_000_000
        words = [f'{number:05d}' for number in range(5_000)]
        pushed, listed, _, got = await transport.execute(
            [
                call('LPUSH', key, *words),
                call('LRANGE', key, 0, -1),
                call('HSET', key + 'h', 'large', large),
                call('HGET', key + 'h', 'large'),
            ]
        )
        assert pushed == 5_000
        assert listed == [word.encode() for word in reversed(words)]
        assert got == large

    async def test_many_callers_at_once_get_their_own_replies(self, transport: Transport) -> None:
        key = unique_key()
        answered: list[int] = []

        async def caller(number: int) -> None:
            for step in range(3):
                word = f'{number} {step}'
                replies = await transport.execute([call('HSET', key, number, word), call('HGET', key, number)])
                assert replies[1] == word.encode()
            answered.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(caller, number)
        assert sorted(answered) == list(range(60))

    async def test_cancelled_callers_leave_nobody_out_of_step(self, transport: Transport) -> None:
        key = unique_key()
        undisturbed: list[int] = []

        async def caller(number: int, patience: float) -> None:
            with anyio.move_on_after(patience):
                for step in range(20):
                    word = f'{number} {step}'
                    replies = await transport.execute([call('HSET', key, number, word), call('HGET', key, number)])
                    assert replies[1] == word.encode()
                undisturbed.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(caller, number, math.inf if number % 4 == 0 else number * 0.0002)
        assert set(undisturbed) >= set(range(0, 40, 4))
        assert await ask(transport, 'HGET', key, 0) == b'0 19'

    # Block -----------------------------------------------------------------------------------------------------------

    async def test_block_ends_with_its_time(self, transport: Transport) -> None:
        assert transport.block_limit > 0
        with anyio.fail_after(PATIENCE):
            assert await transport.block(wait_for_hint(unique_key(), 0.02), 0.02) is None

    async def test_block_is_woken(self, transport: Transport) -> None:
        key, seconds = unique_key(), transport.block_limit
        replies: list[Reply] = []

        async def wait() -> None:
            reply = None
            while reply is None:  # repeat the wait if the limit is short
                reply = await transport.block(wait_for_hint(key, seconds), seconds)
            replies.append(reply)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(0.02)
                await ask(transport, 'ZADD', key, 0, 'hint')
        ((woken_by, member, *_),) = replies
        assert (woken_by, member) == (key.encode(), b'hint')

    async def test_block_on_several_keys(self, transport: Transport) -> None:
        tag = unique_key()
        keys = tuple(f'{{{tag}}}{number}' for number in range(3))
        for key in (keys[1], keys[2]):
            await ask(transport, 'ZADD', key, 0, 'hint')
        for expected in ([keys[1].encode(), b'hint'], [keys[2].encode(), b'hint'], None):
            reply = await transport.block(Call('BZPOPMIN', keys, ('0.020',)), 0.02)
            assert (reply and reply[:2]) == expected

    async def test_block_holds_up_nothing(self, transport: Transport) -> None:
        seconds = transport.block_limit
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(transport.block, wait_for_hint(unique_key(), seconds), seconds)
            await anyio.sleep(0.01)
            before = transport.now()
            for _ in range(5):
                assert await ask(transport, 'HGET', unique_key(), 'a') is None
            assert transport.now() - before < seconds
            tasks.cancel_scope.cancel()

    async def test_block_tells_an_error_as_a_value(self, transport: Transport) -> None:
        key = unique_key()
        await ask(transport, 'HSET', key, 'a', '1')
        error = await transport.block(wait_for_hint(key, 0.1), 0.1)
        assert isinstance(error, TorrelqueReplyError)
        assert error.code == 'WRONGTYPE'

    async def test_a_call_behind_a_block_is_run_when_that_ends(self, transport: Transport) -> None:
        if not transport.queues_behind:
            return  # it is optional
        key, other, seconds = unique_key(), unique_key(), transport.block_limit
        pairs: list[Sequence[Reply]] = []

        async def wait() -> None:
            pairs.append(await block_and(transport, wait_for_hint(key, seconds), call('RPOP', other), seconds))

        with anyio.fail_after(PATIENCE):
            for _ in range(2):  # also on a reused connection
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    await anyio.sleep(0.02)
                    await transport.execute([call('LPUSH', other, 'a')])
                    await ask(transport, 'ZADD', key, 0, 'hint')
            pairs.append(await block_and(transport, wait_for_hint(key, 0.02), call('RPOP', other), 0.02))
        assert [(pair[0] and pair[0][1], pair[1]) for pair in pairs] == [(b'hint', b'a'), (b'hint', b'a'), (None, None)]

    async def test_errors_of_a_block_and_of_the_call_behind_it_are_values(self, transport: Transport) -> None:
        if not transport.queues_behind:
            return  # it is optional
        key = unique_key()
        await ask(transport, 'HSET', key, 'a', '1')
        for _ in range(2):  # also on a reused connection
            replies = await block_and(transport, wait_for_hint(key, 0.1), call('RPOP', key), 0.1)
            assert [reply.code for reply in replies if isinstance(reply, TorrelqueReplyError)] == ['WRONGTYPE'] * 2

    async def test_a_started_block_that_is_closed_takes_nothing_in_the_end(self, transport: Transport) -> None:
        if not transport.queues_behind:
            return  # it is optional
        key, seconds = unique_key(), transport.block_limit
        batch = wait_for_hint(key, seconds), call('RPOP', key)
        outcomes: list[object] = []
        with anyio.move_on_after(0.02):
            await transport.block_then(*batch, seconds)
        await transport.block_then(wait_for_hint(key, 0.02), batch[1], 0.02)
        close = transport.start_block(batch, seconds, outcomes.append)
        if close is not None:
            await close()

        async def stays() -> bool:
            await ask(transport, 'ZADD', key, 0, 'hint')
            return bool(await ask(transport, 'ZCARD', key))

        await eventually(stays)
        assert outcomes == []

    async def test_a_cancelled_block_takes_nothing_in_the_end(self, transport: Transport) -> None:
        key, seconds = unique_key(), transport.block_limit
        with anyio.move_on_after(0.02):
            await transport.block(wait_for_hint(key, seconds), seconds)

        async def stays() -> bool:
            await ask(transport, 'ZADD', key, 0, 'hint')
            return bool(await ask(transport, 'ZCARD', key))

        await eventually(stays)
        assert await transport.block(wait_for_hint(key, 0.1), 0.1) is not None

    async def test_blocks_cancelled_at_any_moment(self, transport: Transport) -> None:
        key, seconds = unique_key(), transport.block_limit

        async def wait(patience: float) -> None:
            with anyio.move_on_after(patience):
                await transport.block(wait_for_hint(key, seconds), seconds)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(wait, number * 0.0005)
        await ask(transport, 'HSET', key + 'h', 'a', '1')
        assert await ask(transport, 'HGET', key + 'h', 'a') == b'1'
        assert await transport.block(wait_for_hint(unique_key(), 0.01), 0.01) is None

    # Listen ----------------------------------------------------------------------------------------------------------

    async def test_what_is_published_after_the_confirmation_arrives(self, transport: Transport) -> None:
        channel = unique_key().encode() + b'\xff'
        with anyio.fail_after(PATIENCE):
            async with transport.listen() as listener:
                await confirmed(listener, channel)
                for data in (b'1 0', b'', b'\x00\xff\r\n'):
                    assert await publish(transport, channel, data) == 1
                    assert await listener.receive() == Message(channel, data)

    async def test_several_channels_and_leaving_one(self, transport: Transport) -> None:
        tag = unique_key().encode()
        one, other = tag + b'one', tag + b'other'
        with anyio.fail_after(PATIENCE):
            async with transport.listen() as listener:
                await confirmed(listener, one)
                await confirmed(listener, other)
                await publish(transport, other, b'to the other')
                assert await listener.receive() == Message(other, b'to the other')
                await listener.unsubscribe(one)
                await listener.unsubscribe(b'never asked for')

                await unheard(transport, one)
                await publish(transport, other, b'last')
                heard = await listener.receive()
                while heard == Message(one, b'unheard'):  # was in flight when unsubscribing
                    heard = await listener.receive()
                assert heard == Message(other, b'last')
                await confirmed(listener, one)

    async def test_subscribing_while_another_task_receives(self, transport: Transport) -> None:
        tag = unique_key().encode()
        channels = [tag + b'%d' % number for number in range(10)]
        heard: set[Message] = set()
        wanted = {Message(channel, data) for channel in channels for data in (None, b'1 1')}

        async def receive(listener: Listener) -> None:
            while heard != wanted:
                message = await listener.receive()
                heard.add(message)
                if message.data is None:
                    await publish(transport, message.channel, b'1 1')

        with anyio.fail_after(PATIENCE):
            async with transport.listen() as listener, anyio.create_task_group() as tasks:
                tasks.start_soon(receive, listener)
                for channel in channels:
                    await listener.subscribe(channel)
        assert heard == wanted

    async def test_each_listener_hears(self, transport: Transport) -> None:
        channel = unique_key().encode()
        with anyio.fail_after(PATIENCE):
            async with transport.listen() as one, transport.listen() as other:
                await confirmed(one, channel)
                await confirmed(other, channel)
                assert await publish(transport, channel, b'news') == 2
                assert await one.receive() == await other.receive() == Message(channel, b'news')

    async def test_a_listener_left_is_closed(self, transport: Transport) -> None:
        channel = unique_key().encode()

        async def fail() -> None:
            async with transport.listen() as listener:
                await confirmed(listener, channel)
                with anyio.move_on_after(0.01):
                    await listener.receive()
                raise ZeroDivisionError

        with anyio.fail_after(PATIENCE), pytest.raises(ZeroDivisionError):
            await fail()
        await unheard(transport, channel)

    # Clock and end ---------------------------------------------------------------------------------------------------

    async def test_the_clock_goes_on(self, transport: Transport) -> None:
        before = transport.now()
        await transport.pause(anyio.Event(), before + 0.01)
        assert transport.now() >= before + 0.01

    async def test_a_pause_ends_with_the_event(self, transport: Transport) -> None:
        event = anyio.Event()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transport.pause, event, math.inf)
                tasks.start_soon(transport.pause, event, transport.now() + 3600)
                await anyio.lowlevel.checkpoint()
                event.set()
            await transport.pause(event, math.inf)

    async def test_a_pause_until_a_past_time_is_none(self, transport: Transport) -> None:
        with anyio.fail_after(PATIENCE):
            await transport.pause(anyio.Event(), transport.now() - 1)

    async def test_a_pause_can_be_cancelled(self, transport: Transport) -> None:
        with anyio.move_on_after(0.01) as scope:
            await transport.pause(anyio.Event(), math.inf)
        assert scope.cancelled_caught

    async def test_closing_may_be_repeated(self, transport: Transport) -> None:
        await ask(transport, 'HGET', unique_key(), 'a')
        await transport.aclose()
        await transport.aclose()

    async def test_a_strange_pipeline_is_refused(self, transport: Transport) -> None:
        with pytest.raises(TorrelqueError, match="'no pipeline'"):
            transport.append('no pipeline', call('HGET', unique_key(), 'a'))


NESTED = Script('nested', "return {1, redis.error_reply('MINE alone'), {false, 'a', {'b\\255'}}}", ())
CUSTOM = Script('custom', "return redis.error_reply('MINE because I say so')", ())
FAILING = Script('failing', "return redis.call('LPUSH', KEYS[1], 'x')", ('key',))


class ServerConformance(TransportConformance):
    """Tests that need a real server: other scripts, and connections that the server closes."""

    async def test_scripts_are_loaded_when_they_are_missing(self, transport: Transport) -> None:
        name = unique_key()
        script = Script('echo', f"return {{KEYS[1], ARGV[1], '{name}'}}", ('key',))
        for _ in range(2):
            reply = await drive(transport, iter(Call[Reply](script, (b'k\xff',), (7,))))
            assert reply == [b'k\xff', b'7', name.encode()]

    async def test_replies_nest(self, transport: Transport) -> None:
        one, error, (none, text, (odd,)) = await drive(transport, iter(Call[Reply](NESTED)))
        assert (one, none, text, odd) == (1, None, b'a', b'b\xff')
        assert isinstance(error, TorrelqueReplyError)
        assert error.code == 'MINE'

    async def test_a_script_can_answer_an_error_of_its_own(self, transport: Transport) -> None:
        key = unique_key()
        custom = Call[Reply](CUSTOM, near=key)
        await transport.execute([Call('SCRIPT LOAD', args=(CUSTOM.source,), near=key)])
        for batch in ([custom], [call('PING'), custom, call('PING')]):
            error = next(reply for reply in await transport.execute(batch) if isinstance(reply, Exception))
            assert isinstance(error, TorrelqueReplyError)
            assert error.code == 'MINE'
            assert 'because I say so' in str(error)

    async def test_a_failing_script_is_an_error(self, transport: Transport) -> None:
        key = unique_key()
        await transport.execute([call('HSET', key, 'a', '1'), call('SCRIPT LOAD', FAILING.source)])
        (error,) = await transport.execute([Call(FAILING, (key,))])
        assert isinstance(error, TorrelqueReplyError)
        assert 'WRONGTYPE' in f'{error.code} {error}'

    async def test_works_again_after_its_connections_were_cut(self, transport: Transport) -> None:
        key = unique_key()
        await ask(transport, 'HSET', key, 'a', '1')
        for skip_me in ('yes', 'no'):
            try:
                await kill(transport, key, 'TYPE', 'normal', 'SKIPME', skip_me)
                await ask(transport, 'HGET', key, 'a')
            except TorrelqueConnectionError:
                pass  # raising is enough
            assert await ask(transport, 'HGET', key, 'a') == b'1'

    async def test_a_cut_block_is_told_and_not_repeated(self, transport: Transport) -> None:
        transport.block_limit = min(transport.block_limit, 5.0)
        key = unique_key()
        errors: list[Exception] = []

        async def wait() -> None:
            try:
                while True:
                    await transport.block(wait_for_hint(key, transport.block_limit), transport.block_limit)
            except TorrelqueConnectionError as error:
                errors.append(error)

        async def cut() -> bool:
            await kill(transport, key, 'TYPE', 'normal')
            return bool(errors)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.sleep(0.01)
                await eventually(cut)

    async def test_a_cut_listener_is_told(self, transport: Transport) -> None:
        with anyio.fail_after(PATIENCE):
            async with transport.listen() as listener:
                channel = unique_key()
                await confirmed(listener, channel.encode())
                await kill(transport, channel, 'TYPE', 'pubsub')
                with pytest.raises(TorrelqueConnectionError):
                    await listener.receive()
            async with transport.listen() as listener:
                await confirmed(listener, unique_key().encode())
