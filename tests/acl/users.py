"""Users of a server with the rights of a role, and a transport that sends each call as the role that should make it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote

import coredis
import redis.asyncio

from tests.servers import Server
from torrelque import acl, connect
from torrelque.core.keys import LOGICAL_NAMES
from torrelque.core.protocol import Batch, Call, Reply, Script
from torrelque.transports import adapt
from torrelque.transports.base import Listener, Transport

PASSWORD = 'p w/%'


def has_selectors(server: Server) -> bool:
    return not server.version.startswith('6.')


def rules(
    server: Server,
    role: str,
    queue: str,
    keys: Mapping[str, str] = LOGICAL_NAMES,
    *,
    capped: bool = False,
    replacing: bool = False,
    scheduling: bool = False,
) -> list[str]:
    return acl.rules(
        role,
        queue,
        keys=keys,
        selectors=has_selectors(server),
        capped=capped,
        replacing=replacing,
        scheduling=scheduling,
    )


def make_user(server: Server, name: str, words: Iterable[str] = ()) -> None:
    """A user with these rights and no others."""
    server.command('ACL', 'SETUSER', name, 'reset', 'resetchannels', 'on', f'>{PASSWORD}', *words)


COURTESIES = frozenset({'ping', 'client', 'client|setinfo'})
"""What clients send besides, and can do without."""


def refusals(server: Server) -> set[tuple[str, str]]:
    """What was refused since this was last asked, but for courtesies: users, and commands, keys or channels."""
    entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in server.command('ACL', 'LOG', 128)]
    server.command('ACL', 'LOG', 'RESET')
    refused = {(entry[b'username'].decode(), entry[b'object'].decode().lower()) for entry in entries}
    return {(user, what) for user, what in refused if what not in COURTESIES}


def password_url(server: Server, user: str) -> str:
    return server.url.replace('://', f'://{user}:{quote(PASSWORD, safe="")}@')


@asynccontextmanager
async def as_user(server: Server, kind: str, user: str) -> AsyncIterator[Transport]:
    """A transport of a kind of client, logged in."""
    url = password_url(server, user)
    async with AsyncExitStack() as stack:
        client: object
        if kind == 'native':
            client = await stack.enter_async_context(connect(url))
        elif kind == 'redis_py':
            client = await stack.enter_async_context(redis.asyncio.Redis.from_url(url))
        else:  # of a URL it takes the password as it stands there
            client = await stack.enter_async_context(
                coredis.Redis('127.0.0.1', server.port, username=user, password=PASSWORD)
            )
        transport = adapt(client)
        if transport is not client:
            stack.push_async_callback(transport.aclose)
        yield transport


# Who makes which call --------------------------------------------------------------------------------------------

_ROLE_OF_SCRIPT = {
    **dict.fromkeys(('enqueue', 'mint', 'drop', 'schedule'), 'producer'),
    **dict.fromkeys(
        ('claim', 'release', 'requeue', 'reject', 'giveback', 'extend', 'progress', 'settle', 'tick', 'announce'),
        'consumer',
    ),
    **dict.fromkeys(('stats', 'page', 'workers', 'groups'), 'observer'),
    **dict.fromkeys(
        ('cancel', 'redrive', 'purge', 'sweep', 'undequeue', 'inspect', 'repair', 'flow', 'regulate'), 'operator'
    ),
}
_ROLE_OF_COMMAND = {
    **dict.fromkeys(('HGET', 'HMGET', 'ZSCORE', 'TIME'), 'observer'),
    **dict.fromkeys(('SCAN', 'LRANGE', 'SSCAN', 'ZSCAN', 'ZCARD', 'ZMSCORE', 'TYPE', 'PTTL'), 'operator'),
}


def _roles_of(batch: Batch) -> list[str]:
    roles: list[str] = []
    for call in reversed(batch):
        if isinstance(call.command, Script):
            roles.append(_ROLE_OF_SCRIPT[call.command.name])
        elif call.command == 'SCRIPT LOAD':
            roles.append(roles[-1])  # loaded by who runs it then
        else:
            roles.append(_ROLE_OF_COMMAND[call.command])
    return roles[::-1]


class RoleTransport(Transport):
    """Each call goes over the connection of the smallest role that is meant to make it."""

    def __init__(self, of_role: Mapping[str, Transport]) -> None:
        self._of_role = of_role
        self.block_limit = min(transport.block_limit for transport in of_role.values())

    async def execute(self, batch: Batch) -> Sequence[Reply]:
        replies: list[Reply] = []
        for role, part in groupby(zip(_roles_of(batch), batch, strict=True), key=itemgetter(0)):
            replies += await self._of_role[role].execute([call for _, call in part])
        return replies

    async def block(self, call: Call[Reply], timeout: float) -> Reply:
        return await self._of_role['consumer'].block(call, timeout)

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        return self._of_role['consumer'].listen()  # hears of transitions, as an observer does, and of cancellations


@asynccontextmanager
async def as_all_roles(server: Server, kind: str) -> AsyncIterator[RoleTransport]:
    async with AsyncExitStack() as stack:
        yield RoleTransport({role: await stack.enter_async_context(as_user(server, kind, role)) for role in acl.ROLES})
