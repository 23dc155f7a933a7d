"""Over a ``redis.asyncio.RedisCluster`` that the user holds.

Calls go over the connections of the client's nodes. Which node that is, the
client knows; redirections are followed here: it would send ASKING on another
connection than the call, and routes commands by the keys that it finds in them.
What waits long has connections of its own, as over a single server.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from anyio.lowlevel import checkpoint
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, PipelineCommand, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.core.slots import slot_of
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueTypeError,
    TorrelqueUsageError,
)
from torrelque.transports import base
from torrelque.transports.naming import class_name, named
from torrelque.transports.pairs import pair
from torrelque.transports.redis_py import (
    ANSWERS_THAT_END_A_CONNECTION,
    LAST_CALL,
    MARGIN,
    RESPONSE_TIMEOUT,
    Dialer,
    RedisPyListener,
    as_failure,
    as_reply_error,
    cancel_again,
    do_nothing,
    this_task,
)
from torrelque.transports.resp import encoded, plain
from torrelque.transports.routing import ClusterListener, Router

__all__ = ('RedisPyClusterTransport',)

ONCE = Retry(NoBackoff(), 0)
"""Where the client is not told to retry, as older versions are not by default."""

NO_CLUSTER = 'Cluster mode is not enabled'


class _Nodes(Router[str]):
    """The nodes as the client knows them, by their names, and connections of one's own to each."""

    def __init__(self, client: RedisCluster) -> None:
        super().__init__()
        self._client = client
        self._dialers: dict[str, Dialer] = {}

    async def begin(self) -> None:
        try:
            await self._client.initialize()  # at once where that is done already
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise _unreachable(error) from error

    async def read(self) -> None:
        manager = self._client.nodes_manager
        try:
            await manager.initialize()
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise _unreachable(error) from error
        for name in self._dialers.keys() - manager.nodes_cache.keys():
            await self._dialers.pop(name).close_idle()

    def owner_of(self, slot: int | None) -> str | None:
        if slot is None:
            primaries = self._client.get_primaries()
            return random.choice(primaries).name if primaries else None  # noqa: S311 - no secret
        nodes = self._client.nodes_manager.slots_cache.get(slot)
        return nodes[0].name if nodes else None

    def node_at(self, host: str, port: int, asked: str) -> str:
        client, manager = self._client, self._client.nodes_manager
        host, port = manager.remap_host_port(host or asked.rpartition(':')[0], port)
        node = client.get_node(host=host, port=port)
        if node is None:  # it serves no slot yet; kept with the others, it is closed with them
            node = ClusterNode(host, port, 'primary', **client.connection_kwargs)
            manager.set_nodes(manager.nodes_cache, {node.name: node})
        return node.name

    def unowned(self, slot: int | None) -> TorrelqueConnectionError:
        told = exceptions.SlotNotCoveredError(f'no node of the cluster serves slot {slot}')
        return pair(TorrelqueConnectionError, told)

    def node(self, name: str) -> ClusterNode:
        node = self._client.get_node(node_name=name)
        if node is None:  # what is known was read anew just now
            raise pair(TorrelqueConnectionError, exceptions.ConnectionError(f'{name} has left the cluster'))
        return node

    def dialer_to(self, name: str) -> Dialer:
        dialer = self._dialers.get(name)
        if dialer is None:
            dialer = self._dialers[name] = Dialer(self.node(name))
        return dialer

    async def close_idle(self) -> None:
        for dialer in tuple(self._dialers.values()):
            await dialer.close_idle()

    async def aclose(self) -> None:
        while self._dialers:
            await self._dialers.popitem()[1].aclose()


def _unreachable(error: Exception) -> TorrelqueError:
    """What the client could not begin for, or read anew."""
    cause = error.__cause__ or error
    if isinstance(cause.__context__, exceptions.NoPermissionError):  # redis-py takes it for a server that is no cluster
        cause = cause.__context__
    if isinstance(cause, (exceptions.ResponseError, *ANSWERS_THAT_END_A_CONNECTION)):
        return as_failure(cause)
    if NO_CLUSTER in str(error):
        return pair(TorrelqueHandshakeError, error)
    return pair(TorrelqueConnectionError, error)


class RedisPyClusterTransport(base.Transport):
    """See :class:`torrelque.transports.base.Transport`. Needs asyncio."""

    on_cluster = True

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._nodes = _Nodes(client)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} over a {class_name(self._client)}>'

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        """Send the calls as one pipeline to the primary of their slot, as often as the client's retries say.

        When cancelled, the connection that was in use is closed.
        """
        task = this_task()
        cancellations = task.cancelling()
        if not batch:
            await checkpoint()
            return []
        replies = await self._retry().call_with_retry(lambda: self._nodes.route(batch, self._send), do_nothing)
        if task.cancelling() > cancellations:
            await cancel_again(task)
        return replies

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        # A client that is closed would begin anew, and leave connections open.
        replies: list[Reply] = []
        for call in batch:
            node = self._nodes.owner_of(None if call.place is None else slot_of(call.place))
            if node is None:
                raise self._nodes.unowned(None)
            replies += await self._nodes.dialer_to(node).ask([_words(call)], LAST_CALL, 'no answer to the last call')
        return replies

    async def execute_apart(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a connection of their own, as often as the client's retries say.

        Where one is redirected all are sent again, with the wait at their end.
        """
        this_task()
        seconds = timeout + (self._client.connection_kwargs.get('socket_timeout') or RESPONSE_TIMEOUT)

        async def send(node: str, calls: Batch) -> Sequence[Reply]:
            dialer = self._nodes.dialer_to(node)
            return await dialer.ask([_words(call) for call in calls], seconds, f'no answer within {seconds:g} s')

        return await self._retry().call_with_retry(lambda: self._nodes.route(batch, send, together=True), do_nothing)

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        this_task()
        late = f'no answer to a call that blocks for {timeout:g} s at most'

        async def send(node: str) -> Reply:
            (reply,) = await self._nodes.dialer_to(node).ask([_words(call)], timeout + MARGIN, late)
            return reply

        return await self._nodes.block(call, timeout, send)

    def listen(self) -> AbstractAsyncContextManager[base.Listener]:
        this_task()
        return self._listen()

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[base.Listener]:
        async with AsyncExitStack() as stack:

            async def connect(channel: bytes) -> RedisPyListener:
                dialer = self._nodes.dialer_to(await self._nodes.node_of(channel))
                connection = await dialer.open()
                stack.push_async_callback(dialer.close, connection)
                return RedisPyListener(connection)

            yield ClusterListener(connect, self._nodes.doubt)

    def place(self, key: bytes) -> Hashable:
        return self._nodes.owner_of(slot_of(key))

    async def nodes(self) -> Sequence[Arg | None]:
        this_task()
        return await self._nodes.nodes()

    async def reconnect(self) -> None:
        self._nodes.doubt()
        await self._nodes.close_idle()

    async def aclose(self) -> None:
        this_task()
        await self._nodes.aclose()

    def append(self, pipeline: object, call: Call[Reply]) -> None:
        """Queue a call on a pipeline of a ``redis.asyncio.RedisCluster``, with ``transaction=True`` or without.

        Raises TorrelqueTypeError for anything else, and TorrelqueUsageError
        where a transaction would run it at once, between its ``watch()`` and its
        ``multi()``, or where the client is not initialized yet.
        """
        if not isinstance(pipeline, ClusterPipeline):
            raise TorrelqueTypeError(
                f'pipeline: expected a pipeline of a redis.asyncio.RedisCluster, not {named(pipeline)}'
            )
        strategy = getattr(pipeline, '_execution_strategy', None)  # redis-py has no other way to tell
        if hasattr(strategy, '_watching'):  # a transaction, which older versions do not have
            _check_transaction(strategy, begun=not getattr(self._client, '_initialize', False))
        name, *rest = call.words_with_source()
        pipeline.execute_command(name, *encoded(rest))

    async def _send(self, node: str, calls: Batch) -> list[Reply]:
        commands = [PipelineCommand(index, *self._named(call), NEVER_DECODE=True) for index, call in enumerate(calls)]
        try:
            await self._nodes.node(node).execute_pipeline(commands)
        except exceptions.RedisError as error:
            raise as_failure(error) from error
        return [_value(command.result) for command in commands]

    def _named(self, call: Call[Any]) -> list[Any]:
        name, *rest = _words(call)
        # Under its name as text redis-py would find a callback that remakes the reply.
        return [name.encode() if name in self._client.response_callbacks else name, *rest]

    def _retry(self) -> Retry:
        retry: Retry | None = self._client.retry
        return retry or ONCE


def _check_transaction(strategy: object, *, begun: bool) -> None:
    if not begun:  # redis-py would, on another event loop
        raise TorrelqueUsageError('pipeline: a transaction needs the client initialized: `await client.initialize()`')
    if getattr(strategy, '_watching', False) and not getattr(strategy, '_explicit_transaction', False):
        raise TorrelqueUsageError('pipeline: it watches keys and would run the call at once: call its multi() first')


def _words(call: Call[Any]) -> list[Any]:
    name, *rest = call.words()
    return [str(name), *encoded(rest)]


def _value(result: Any) -> Reply:  # noqa: ANN401 - as redis-py has it
    """What a call was answered with. Raises TorrelqueConnectionError if it was not."""
    if isinstance(result, exceptions.ResponseError) and not isinstance(result, ANSWERS_THAT_END_A_CONNECTION):
        return as_reply_error(result)
    if isinstance(result, exceptions.RedisError):
        raise as_failure(result) from result
    if isinstance(result, Exception):
        raise result
    return plain(result, as_reply_error)
