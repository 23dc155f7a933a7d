"""Over a ``redis.asyncio.RedisCluster`` that the user holds.

Calls go over the connections of the client's nodes. Which node that is, the
client knows; redirections are followed here: it would send ASKING on another
connection than the call, and routes commands by the keys that it finds in them.
What waits long has connections of its own, as over a single server.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, PipelineCommand, RedisCluster

from torrelque.core.protocol import Arg, Batch, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueTypeError,
    TorrelqueUsageError,
)
from torrelque.transports import base
from torrelque.transports.cluster.router import ClusterListener, Router
from torrelque.transports.cluster.slots import slot_of
from torrelque.transports.errors import dual_error
from torrelque.transports.naming import class_name, named
from torrelque.transports.redis_py import LAST_CALL, MARGIN, RedisPyListener
from torrelque.transports.redis_py_connections import (
    ANSWERS_THAT_END_A_CONNECTION,
    CONNECT_TIMEOUT,
    POOL_TIMEOUT,
    RESPONSE_TIMEOUT,
    Dialer,
    Line,
    as_failure,
    as_reply_error,
    cancel_again,
    handshake_failure,
    late_connection,
    limited,
    on_this_loop,
    policy_of,
    this_task,
)
from torrelque.transports.repeating import Policy, demoted, repeat
from torrelque.transports.resp import encoded, plain
from torrelque.transports.tls import failed_handshake, reason_of

__all__ = ('RedisPyClusterTransport', 'unreachable')

NO_CLUSTER = 'Cluster mode is not enabled'


class _Nodes(Router[str]):
    """The nodes as the client knows them, by their names, and connections of one's own to each."""

    def __init__(self, client: RedisCluster) -> None:
        super().__init__()
        self._client = client
        self._dialers: dict[str, Dialer] = {}
        self._lines: dict[str, Line] = {}
        self._home: tuple[int, object] | None = None

    async def begin(self) -> None:
        await self._limited(self._client.initialize)  # at once where that is done already

    async def read(self) -> None:
        manager = self._client.nodes_manager
        for node in self._client.get_nodes():
            await self.drop_free(node)  # what broke one connection has probably broken others
        await self._limited(manager.initialize)
        for name in self._dialers.keys() - manager.nodes_cache.keys():
            await self._dialers.pop(name).close_idle()
        for name in self._lines.keys() - manager.nodes_cache.keys():
            del self._lines[name]

    async def _limited(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                await function()
        except TimeoutError:
            raise late_connection() from None
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            raise unreachable(error) from error

    def line_to(self, node: ClusterNode) -> Line:
        """Those who wait for one of the client's connections to a node."""
        home = os.getpid(), asyncio.get_running_loop()
        if self._home != home:
            self._home = home
            self._lines.clear()
        line = self._lines.get(node.name)
        if line is None:
            line = self._lines[node.name] = Line(
                lambda: node._free or len(node._connections) < node.max_connections,  # noqa: SLF001 - no public way
                lambda: node.max_connections,
            )
        return line

    async def drop_free(self, node: ClusterNode) -> None:
        """Close the client's connections to a node that nobody uses."""
        for connection in tuple(node._free):  # noqa: SLF001 - no public way in older versions
            with suppress(exceptions.RedisError, OSError, RuntimeError):
                await connection.disconnect(nowait=True)

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
        return dual_error(TorrelqueConnectionError, told)

    def node(self, name: str) -> ClusterNode:
        node = self._client.get_node(node_name=name)
        if node is None:  # what is known was read anew just now
            raise dual_error(TorrelqueConnectionError, exceptions.ConnectionError(f'{name} has left the cluster'))
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


def unreachable(error: Exception) -> TorrelqueError:
    """What the client could not begin for, or read anew."""
    reason = reason_of(error)
    if reason is not None:
        return handshake_failure(failed_handshake('the cluster', reason))
    cause = error.__cause__ or error
    if isinstance(cause.__context__, exceptions.NoPermissionError):  # redis-py takes it for a server that is no cluster
        cause = cause.__context__
    if isinstance(cause, (exceptions.ResponseError, *ANSWERS_THAT_END_A_CONNECTION)):
        return as_failure(cause)
    if NO_CLUSTER in str(error):
        return dual_error(TorrelqueHandshakeError, error)
    return dual_error(TorrelqueConnectionError, error)


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
        replies = await repeat(batch, self._route, self._policy())
        if task.cancelling() > cancellations:
            await cancel_again(task)
        return replies

    async def _route(self, batch: Batch) -> Sequence[Reply]:
        return await self._nodes.route(batch, self._send)

    def _policy(self) -> Policy:
        return policy_of(self._client.retry)

    async def execute_at_end(self, batch: Batch) -> Sequence[Reply]:
        # A client that is closed would begin anew, and leave connections open.
        replies: list[Reply] = []
        for call in batch:
            node = self._nodes.owner_of(None if call.routing_key is None else slot_of(call.routing_key))
            if node is None:
                raise self._nodes.unowned(None)
            replies += await self._nodes.dialer_to(node).ask([_words(call)], LAST_CALL, 'no answer to the last call')
        return replies

    async def execute_dedicated(self, batch: Batch, timeout: float) -> Sequence[Reply]:
        """Send the calls on a connection of their own, as often as the client's retries say.

        Where one is redirected all are sent again, with the wait at their end.
        """
        this_task()
        seconds = timeout + (self._client.connection_kwargs.get('socket_timeout') or RESPONSE_TIMEOUT)

        async def send(node: str, calls: Batch) -> Sequence[Reply]:
            dialer = self._nodes.dialer_to(node)
            return await dialer.ask([_words(call) for call in calls], seconds, f'no answer within {seconds:g} s')

        async def attempt(calls: Batch) -> Sequence[Reply]:
            return await self._nodes.route(calls, send, together=True)

        return await repeat(batch, attempt, self._policy(), together=True)

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

            yield ClusterListener(connect, self._nodes.mark_stale)

    def node_of(self, key: bytes) -> Hashable:
        return self._nodes.owner_of(slot_of(key))

    async def nodes(self) -> Sequence[Arg | None]:
        this_task()
        return await self._nodes.nodes()

    async def reconnect(self) -> None:
        self._nodes.mark_stale()
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

    async def _send(self, name: str, calls: Batch) -> list[Reply]:
        node = self._nodes.node(name)
        return await on_this_loop(lambda: self._send_once(name, calls), lambda: self._nodes.drop_free(node))

    async def _send_once(self, name: str, calls: Batch) -> list[Reply]:
        commands = [PipelineCommand(index, *self._named(call), NEVER_DECODE=True) for index, call in enumerate(calls)]
        node = self._nodes.node(name)
        line = self._nodes.line_to(node)
        await line.stand(POOL_TIMEOUT)
        try:
            with limited(self._client.connection_kwargs.get('socket_timeout'), [each.args for each in commands], name):
                await node.execute_pipeline(commands)
        except exceptions.RedisError as error:
            await self._nodes.drop_free(node)
            raise as_failure(error, name) from error
        finally:
            line.returned()
        replies = [_value(command.result) for command in commands]
        if demoted(replies):
            self._nodes.mark_stale()
            await self._nodes.drop_free(node)
        return replies

    def _named(self, call: Call[Any]) -> list[Any]:
        name, *rest = _words(call)
        # Under its name as text redis-py would find a callback that remakes the reply.
        return [name.encode() if name in self._client.response_callbacks else name, *rest]


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
