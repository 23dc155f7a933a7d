"""The same work with plain commands: what it costs the server, and the network, without the library.

The data model is the library's: payloads in one hash, each task's state in a hash of its own, pending ids in a list,
claims in a sorted set. Nothing is fenced, repeated, published or counted. Where the library merges single calls of
50 callers, this sends the commands of 50 tasks in one write.

A hand-off is pipelined: the producer calls a script, and the idle consumer has sent BZPOPMIN with the script that
claims behind it, so there is no round trip between the hint and the claim.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import anyio
import hiredis
import trio

from benchmarks.systems import Handler, Payload, System

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT = 300
SLICE = 8

ENQUEUE = """
local now = redis.call('TIME')[1]
redis.call('HSET', 'raw:tasks', ARGV[1], ARGV[2])
redis.call('HSET', 'raw:task:' .. ARGV[1], 'status', '0', 'timeout', '300', 'enqueue_time', now)
redis.call('LPUSH', 'raw:pending', ARGV[1])
redis.call('ZADD', 'raw:wake', 0, '0')
"""
CLAIM = """
local id = redis.call('RPOP', 'raw:pending')
if not id then return {} end
local now = redis.call('TIME')[1]
redis.call('HMGET', 'raw:task:' .. id, 'status', 'timeout', 'dequeue_count')
redis.call('HSET', 'raw:task:' .. id, 'status', '1', 'last_dequeue_time', now, 'dequeue_count', '1')
redis.call('ZADD', 'raw:working', now + 300, id)
return { id, redis.call('HGET', 'raw:tasks', id) }
"""

Words = tuple[Any, ...]


class Subject(System):
    merges = True

    async def __aenter__(self) -> Self:
        self._stack = await AsyncExitStack().__aenter__()
        self._idle: list[Wire] = []
        self._numbers = itertools.count()
        self._prefix = os.urandom(8).hex()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def enqueue(self, task: Payload, delay: float | None = None) -> None:
        async with self._wire() as wire:
            await wire.run([_call(ENQUEUE, self._new_id(), json.dumps(task))])

    async def enqueue_many(self, tasks: list[Payload], delay: float | None = None) -> None:
        async with self._wire() as wire:
            await wire.run(self._adding(tasks, delay))

    async def lifecycle(self, task: Payload) -> None:
        await self.lifecycle_many([task])

    async def lifecycle_many(self, tasks: list[Payload]) -> int:
        async with self._wire() as wire:
            await wire.run(self._adding(tasks))
            ids, _ = await self._claim(wire, len(tasks))
            await wire.run(_ending(ids))
            return len(ids)

    async def work(self, handler: Handler, concurrency: int, stop: anyio.Event) -> None:
        async with anyio.create_task_group() as group, self._wire() as wire:
            group.start_soon(self._work, wire, handler, concurrency)
            await stop.wait()
            group.cancel_scope.cancel()

    async def _work(self, wire: Wire, handler: Handler, concurrency: int) -> None:
        ids: list[bytes] = []
        while True:
            ended = _ending(ids)
            ids, payloads = await self._claim(wire, concurrency, ended)
            if not ids:
                *_, claimed = await wire.run([('BZPOPMIN', 'raw:wake', SLICE), _call(CLAIM)])
                ids, payloads = claimed[:1], claimed[1:]
            for payload in payloads:
                await handler(json.loads(payload))

    async def _claim(self, wire: Wire, count: int, before: Sequence[Words] = ()) -> tuple[list[bytes], list[bytes]]:
        *_, ids = await wire.run([*before, ('RPOP', 'raw:pending', count)])
        if not ids:
            return [], []
        now = time.time()
        commands: list[Words] = [('HMGET', 'raw:tasks', *ids)]
        commands += [('HMGET', b'raw:task:' + key, 'status', 'timeout', 'dequeue_count') for key in ids]
        states = ('status', '1', 'last_dequeue_time', now, 'dequeue_count', '1')
        commands += [('HSET', b'raw:task:' + key, *states) for key in ids]
        commands.append(('ZADD', 'raw:working', *itertools.chain.from_iterable((now + TIMEOUT, key) for key in ids)))
        payloads, *_ = await wire.run(commands)
        return ids, payloads

    def _adding(self, tasks: list[Payload], delay: float | None = None) -> list[Words]:
        now = time.time()
        ids = [self._new_id() for _ in tasks]
        payloads = itertools.chain.from_iterable((key, json.dumps(task)) for key, task in zip(ids, tasks, strict=True))
        commands: list[Words] = [('HSET', 'raw:tasks', *payloads)]
        state = ('status', '0', 'timeout', TIMEOUT, 'enqueue_time', now)
        commands += [('HSET', 'raw:task:' + key, *state) for key in ids]
        if delay is None:
            commands.append(('LPUSH', 'raw:pending', *ids))
        else:
            commands.append(('ZADD', 'raw:delayed', *itertools.chain.from_iterable((now + delay, key) for key in ids)))
        return commands

    def _new_id(self) -> str:
        return f'{self._prefix}{next(self._numbers):016x}'

    @asynccontextmanager
    async def _wire(self) -> AsyncIterator[Wire]:
        wire = self._idle.pop() if self._idle else await self._connect()
        yield wire
        self._idle.append(wire)

    async def _connect(self) -> Wire:
        wire = await open_wire(self.url)
        self._stack.callback(wire.close)
        for script in (ENQUEUE, CLAIM):
            await wire.run([('SCRIPT', 'LOAD', script)])
        return wire


def _ending(ids: list[bytes]) -> list[Words]:
    if not ids:
        return []
    states = (b'raw:task:' + key for key in ids)
    return [('ZREM', 'raw:working', *ids), ('HDEL', 'raw:tasks', *ids), ('UNLINK', *states)]


def _call(script: str, *words: str) -> Words:
    return ('EVALSHA', hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(), 0, *words)


class Wire:
    """A connection on bare streams."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | trio.SocketStream) -> None:
        self._streams = streams
        self._parser = hiredis.Reader()

    async def run(self, commands: Sequence[Words]) -> list[Any]:
        """Send commands in one write, and return their replies."""
        await self._send(b''.join(map(hiredis.pack_command, commands)))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._parser.gets()
            if reply is False:
                self._parser.feed(await self._receive())
            elif isinstance(reply, hiredis.ReplyError):
                raise reply
            else:
                replies.append(reply)
        return replies

    async def _send(self, data: bytes) -> None:
        if isinstance(self._streams, trio.SocketStream):
            await self._streams.send_all(data)
        else:
            self._streams[1].write(data)

    async def _receive(self) -> bytes:
        if isinstance(self._streams, trio.SocketStream):
            data = await self._streams.receive_some()
        else:
            data = await self._streams[0].read(65536)
        if not data:
            raise ConnectionError('the server closed the connection')
        return bytes(data)

    def close(self) -> None:
        if isinstance(self._streams, trio.SocketStream):
            self._streams.socket.close()
        else:
            self._streams[1].close()


async def open_wire(url: str) -> Wire:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return Wire(await trio.open_tcp_stream(address.hostname, address.port))
    return Wire(await asyncio.open_connection(address.hostname, address.port))
