"""The server in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from torrelque.core.protocol import Arg, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError
from torrelque.testing import MemoryServer

pytestmark = pytest.mark.anyio

START = 1_700_000_000.0


def call(command: str, *args: Arg) -> Call[Reply]:
    return Call(command, args=args)


WAIT: Call[Reply] = Call('BZPOPMIN', (b'z',), ('8.000',))


def test_an_error_is_a_value_and_a_fresh_one() -> None:
    server = MemoryServer()
    server.call(call('SET', 'k', 'v'))
    errors = [server.call(call('LLEN', 'k')) for _ in range(2)]
    assert [error.code for error in errors] == ['WRONGTYPE', 'WRONGTYPE']
    assert errors[0] is not errors[1]


def test_knows_no_other_scripts() -> None:
    reply = MemoryServer().call(Call(Script('another', 'return 1', ())))
    assert isinstance(reply, TorrelqueReplyError)
    assert reply.code == 'NOSCRIPT'


def test_keys_expire_on_its_clock() -> None:
    now = START
    server = MemoryServer(lambda: now)
    server.call(call('SET', 'k', 'v', 'PX', 1500))
    server.call(call('SET', 'longer', 'v', 'PX', 1501))
    assert server.snapshot()[b'k'] == ('string', b'v', 1_700_000_001_500)
    now += 1.5
    assert server.call(call('PTTL', 'k')) == 0
    now += 0.001
    assert set(server.snapshot()) == {b'longer'}
    assert server.call(call('TIME')) == [b'1700000001', b'501000']


def test_a_snapshot_is_a_copy() -> None:
    server = MemoryServer()
    server.execute([call('RPUSH', 'l', 'a'), call('HSET', 'h', 'f', 'v'), call('SADD', 's', 'm')])
    server.call(call('ZADD', 'z', 1, 'm'))
    before = server.snapshot()
    server.execute([call('RPUSH', 'l', 'b'), call('HSET', 'h', 'g', 'v'), call('SADD', 's', 'n')])
    server.call(call('ZADD', 'z', 2, 'n'))
    assert before == {
        b'l': ('list', [b'a'], None),
        b'h': ('hash', {b'f': b'v'}, None),
        b's': ('set', {b'm'}, None),
        b'z': ('zset', {b'm': 1.0}, None),
    }


def test_waiters_are_served_first_come_first_served() -> None:
    server = MemoryServer()
    served: list[tuple[int, Reply]] = []

    def waiter(number: int) -> Callable[[], None]:
        return server.wait(b'z', lambda reply: served.append((number, reply)))

    ends = [waiter(number) for number in range(4)]
    ends[1]()
    ends[1]()
    server.call(call('ZADD', 'z', 2, 'b', 1, 'a'))
    assert served == [(0, [b'z', b'a', b'1']), (2, [b'z', b'b', b'2'])]
    server.call(call('SET', 'z', 'no sorted set'))
    server.call(call('DEL', 'z'))
    server.call(call('ZADD', 'z', 1, 'c', 2, 'd'))
    assert served[2:] == [(3, [b'z', b'c', b'1'])]
    assert server.call(call('ZRANGE', 'z', 0, -1)) == [b'd']


def test_a_waiter_may_find_something_there() -> None:
    server = MemoryServer()
    replies: list[Reply] = []
    server.call(call('ZADD', 'z', '0.5', 'a'))
    server.wait(b'z', replies.append)()
    assert replies == [[b'z', b'a', b'0.5']]
    server.call(call('SET', 'z', 'no sorted set'))
    server.wait(b'z', replies.append)()
    assert replies[1].code == 'WRONGTYPE'


def test_subscribers_hear_what_is_published_meanwhile() -> None:
    server = MemoryServer()
    heard: list[bytes] = []
    assert server.call(call('PUBLISH', 'c', 'before')) == 0
    ends = [server.subscribe(b'c', heard.append) for _ in range(2)]
    assert server.call(call('PUBLISH', 'c', 'to both')) == 2
    ends[0]()
    ends[0]()
    assert server.call(call('PUBLISH', 'c', 'to one')) == 1
    ends[1]()
    assert server.call(call('PUBLISH', 'c', 'after')) == 0
    assert heard == [b'to both', b'to both', b'to one']
