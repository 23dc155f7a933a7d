"""A queue that has used a feature of a later version: this version leaves it alone, and says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests import servers
from tests.model.real import DUMP
from tests.servers import Client
from torrelque import Torrelque, TorrelqueNewerError, connect
from torrelque.core.commands import ENQUEUE, RELEASE
from torrelque.core.keys import Keys
from torrelque.core.protocol import Arg, Call
from torrelque.core.scripts import SHARD_VERBS, VERBS, load
from torrelque.core.sharding.partners import LOOKED_AT
from torrelque.errors import TorrelqueReplyError, is_transient

KEYS = Keys.of_queue('q')
READ_ONLY = {'stats', 'page', 'workers', 'groups'}
CLAIM: tuple[Arg, ...] = ('id', '', '')
LANED: dict[str, tuple[Arg, ...]] = {
    'enqueue': ENQUEUE.arguments([('new', b'1', '300', '', '', b'')]),
    'claim': (1, '1.000000'),
    'release': RELEASE.arguments([(*CLAIM, 3, '', b'')]),
    'requeue': (*CLAIM, '', '', ''),
    'reject': (*CLAIM, 'why', ''),
    'giveback': CLAIM,
    'progress': (*CLAIM, '1 - '),
    'settle': (),
    'cancel': ('id', 'ask'),
    'redrive': ('id',),
    'purge': ('id', ''),
    'erase': (1,),
    'flow': ('resume',),
    'regulate': ('limit', 'g', '- - - - - - -'),
    'schedule': ('x', 'remove', ''),
}
"""Arguments after the lane's."""

OTHERS: dict[str, tuple[Arg, ...]] = {
    'mint': ('m',),
    'drop': ('1', 'n'),
    'extend': ('', '', '', *CLAIM, ''),
    'tick': ('1', '0.000000'),
    'sweep': ('stale',),
    'undequeue': (0, 0, 'id'),
    'inspect': ('shallow', 'id'),
    'repair': ('lost', 'id', 1000),
    'wipe': ('rest',),
    'announce': (30_000, 'w', '0.000000', '{}'),
    'survey': (20_000, 1, '', *(f':{name}' for name in LOOKED_AT), 'q'),
    'layout': (1, '2', 'set'),
    'clear': (0, 'id'),
}


@pytest.fixture(params=servers.SERVERS)
def any_server(request: pytest.FixtureRequest) -> servers.Server:
    try:
        server = servers.shared(request.param)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    server.flush()
    return server


def _make_queue(client: Client) -> None:
    """One with a claimed task, and a lane."""
    client.command('HSET', KEYS['tasks'], 'id', '1')
    client.command('HSET', KEYS.state('id'), 'status', '1', 'timeout', '300')
    client.command('ZADD', KEYS['working'], '1', 'id')
    client.command('HSET', KEYS['counters'], 'enqueued', '1', 'uses', 'z')
    client.command('SET', KEYS['lane'] + b':1', '0 n closed ', 'PX', 900_000)


def test_every_script_that_writes_refuses(any_server: servers.Server) -> None:
    plain, sharded = load(), load(sharded=True)
    with any_server.client() as client:
        _make_queue(client)
        client.command('SCRIPT', 'LOAD', DUMP.source)
        for name in {*VERBS, *SHARD_VERBS} - READ_ONLY:
            script = plain.get(name, sharded[name])
            client.command('SCRIPT', 'LOAD', script.source)
            args = ('1', 'n', 1, *LANED[name]) if name in LANED else OTHERS[name]
            before = _content(client)
            with pytest.raises(TorrelqueReplyError) as refused:
                client.command(*Call(script, KEYS.of(script), args).words())
            assert refused.value.code == 'NEWER', name
            assert _content(client) == before, name


def _content(client: Client) -> object:
    return sorted((key, value) for key, _, value, _ in client.command('EVALSHA', DUMP.sha, 0))


@pytest.mark.anyio
async def test_callers_are_told(any_server: servers.Server) -> None:
    async with connect(any_server.url) as client, Torrelque(client, queue='email') as queue:
        await queue.enqueue('first')
        task = await queue.dequeue(10)
        any_server.command('HSET', 'email:counters', 'uses', 'z')
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: queue.enqueue('second'),
            lambda: queue.dequeue(10),
            queue.dequeue_nowait,
            lambda: queue.extend(task),
            lambda: queue.release(task),
            lambda: queue.cancel(task.id),
            queue.sweep,
            queue.audit,
            lambda: queue.delete(force=True),
        ]
        for call in calls:
            with pytest.raises(TorrelqueNewerError, match="queue 'email' uses features of a later version") as told:
                await call()
            assert not is_transient(told.value)
        assert (await queue.get_queue_stats()).working == 1
        any_server.command('HDEL', 'email:counters', 'uses')
        await queue.release(task)


@pytest.mark.anyio
@pytest.mark.parametrize('any_server', ['valkey-9.1'], indirect=True)
async def test_shards_are_left_alone_too(any_server: servers.Server) -> None:
    async with connect(any_server.url) as client, Torrelque(client, queue='email', shards=2) as queue:
        await queue.enqueue('first')
        for shard in range(2):
            any_server.command('HSET', f'{{email:{shard}}}:counters', 'uses', 'z')
        for call in (lambda: queue.enqueue('second'), lambda: queue.dequeue(10)):
            with pytest.raises(TorrelqueNewerError, match="queue 'email' uses"):
                await call()
