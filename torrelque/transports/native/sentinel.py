"""Opens connections to the server that the sentinels name as the primary of a service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
)
from torrelque.transports.native.connection import Connection, pack_words
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.options import Options
from torrelque.transports.native.transport import NativeTransport
from torrelque.transports.native.url import Address

__all__ = ('SentinelDialer', 'SentinelTransport')

HINT = 'sentinels have their own password: set sentinel_password, and sentinel_user if they have users'


class SentinelDialer(Dialer):
    """Before each connection, asks the sentinels for the primary. Then checks that the server is one.

    Args:
        addresses: The sentinels, with the user, password and database of the server.
        service: The name of the service.
        options: How to connect.
        sentinel_user: The user for the sentinels themselves, if they have users.
        sentinel_password: The password for the sentinels themselves, if they have one.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        service: str,
        options: Options,
        sentinel_user: str | None,
        sentinel_password: str | None,
    ) -> None:
        super().__init__(addresses[0], options)
        self._service = service
        self._server = addresses[0]
        self._sentinels = [
            replace(address, user=sentinel_user, password=sentinel_password, db=0) for address in addresses
        ]

    async def open(self) -> Connection:
        """Connect to the primary, once.

        Raises TorrelqueConnectionError also if no sentinel knows the primary, or if
        the server is not one (any more), and TorrelqueHandshakeError like any dialer.
        """
        self._check_open()
        address = await self._find_primary()
        connection = await Dialer(address, self._options).open()
        self._open.add(connection)
        try:
            await self._check_primary(connection, address)
            self._check_open()
        except BaseException:
            await self.close(connection)
            raise
        return connection

    async def _find_primary(self) -> Address:
        """Return the primary, according to the first sentinel that answers. Next time that one is asked first.

        Raises TorrelqueHandshakeError if none answers and at least one refuses to.
        """
        failures: list[TorrelqueConnectionError] = []
        for sentinel in tuple(self._sentinels):
            try:
                host, port = await self._ask_sentinel(sentinel)
            except TorrelqueConnectionError as error:
                failures.append(error)
                continue
            self._sentinels = [sentinel, *(other for other in self._sentinels if other != sentinel)]
            return replace(self._server, host=host, port=port)
        message = f'no sentinel names the primary of {self._service!r}: {"; ".join(map(str, failures))}'
        refusal = next((each for each in failures if isinstance(each, TorrelqueHandshakeError)), None)
        if isinstance(refusal, TorrelqueRefusedError):
            raise TorrelqueRefusedError(message, refusal.code) from refusal
        raise (TorrelqueHandshakeError if refusal else TorrelqueConnectionError)(message) from refusal

    async def _ask_sentinel(self, sentinel: Address) -> tuple[str, int]:
        dialer = Dialer(sentinel, replace(self._options, credentials=None))
        try:
            connection = await dialer.open()
        except TorrelqueRefusedError as error:
            raise TorrelqueRefusedError(f'{error} ({HINT})', error.code) from error
        try:
            reply = await self._ask(connection, 'SENTINEL', 'GET-MASTER-ADDR-BY-NAME', self._service)
        finally:
            await dialer.close(connection)
        match reply:
            case [bytes(host), bytes(port)]:
                return host.decode(), int(port)
            case TorrelqueReplyError(code='NOPERM' | 'NOAUTH'):
                raise TorrelqueRefusedError(f'{sentinel}: {reply} ({HINT})', reply.code)
            case TorrelqueReplyError():
                raise TorrelqueConnectionError(f'{sentinel}: {reply}')
            case _:
                raise TorrelqueConnectionError(f'{sentinel}: unknown service {self._service!r}')

    async def _check_primary(self, connection: Connection, address: Address) -> None:
        match await self._ask(connection, 'ROLE'):
            case [b'master', *_]:
                pass
            case [bytes(role), *_]:
                raise TorrelqueConnectionError(f'{address}: not the primary (any more), its role is {role.decode()}')
            case TorrelqueReplyError(code='NOPERM'):
                pass  # the user may not call ROLE; a replica will answer READONLY to later calls
            case other:
                raise TorrelqueConnectionError(f'{address}: ROLE was answered: {other!r:.100}')

    async def _ask(self, connection: Connection, *words: str) -> Reply:
        with anyio.move_on_after(self._timeout):
            await connection.send(pack_words(words))
            return (await connection.receive())[0]
        raise TorrelqueConnectionError(f'{self.address}: no answer to {words[0]} within {self._timeout:g} s')


class SentinelTransport(NativeTransport):
    """A client for the primary of a service, which is looked up for each connection."""

    fails_over = True

    def __init__(
        self,
        addresses: Sequence[Address],
        service: str,
        options: Options,
        sentinel_user: str | None = None,
        sentinel_password: str | None = None,
    ) -> None:
        dialer = SentinelDialer(addresses, service, options, sentinel_user, sentinel_password)
        super().__init__(addresses[0], options, dialer)
