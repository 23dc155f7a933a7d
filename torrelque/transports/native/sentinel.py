"""Connections to whichever server the sentinels call the primary of a service."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import replace

import anyio

from torrelque.core.protocol import Reply
from torrelque.errors import TorrelqueConnectionError, TorrelqueReplyError
from torrelque.transports.native.connection import Connection, pack_words
from torrelque.transports.native.dialer import Dialer
from torrelque.transports.native.transport import NativeTransport
from torrelque.transports.native.url import Address

__all__ = ('SentinelDialer', 'SentinelTransport')


class SentinelDialer(Dialer):
    """Asks the sentinels in turn before each connection, and the server whether it is a primary.

    ``addresses`` are the sentinels', with the user, password and database of the
    server. The sentinels themselves are asked without a password.
    """

    def __init__(
        self, addresses: Sequence[Address], service: str, ssl_context: ssl.SSLContext | None, timeout: float
    ) -> None:
        super().__init__(addresses[0], ssl_context, timeout)
        self._service = service
        self._sentinels = list(addresses)

    async def open(self) -> Connection:
        """Connect to the primary, once.

        Raises TorrelqueConnectionError also if no sentinel knows it, or if it
        is none (any more), and TorrelqueHandshakeError like any dialer.
        """
        self._check_open()
        address = await self._find_primary()
        connection = await Dialer(address, self._ssl_context, self._timeout).open()
        self._open.add(connection)
        try:
            await self._check_primary(connection, address)
            self._check_open()
        except BaseException:
            await self.close(connection)
            raise
        return connection

    async def _find_primary(self) -> Address:
        """The address that the first sentinel gives that answers; it is the first to be asked next time."""
        failures: list[str] = []
        for sentinel in tuple(self._sentinels):
            try:
                reply = await self._ask_sentinel(sentinel)
            except TorrelqueConnectionError as error:
                failures.append(str(error))
                continue
            match reply:
                case [bytes(host), bytes(port)]:
                    self._sentinels = [sentinel, *(other for other in self._sentinels if other != sentinel)]
                    return replace(sentinel, host=host.decode(), port=int(port))
                case TorrelqueReplyError():
                    failures.append(f'{sentinel}: {reply}')
                case _:
                    failures.append(f'{sentinel}: knows no service {self._service!r}')
        raise TorrelqueConnectionError(f'no sentinel tells the primary of {self._service!r}: {"; ".join(failures)}')

    async def _ask_sentinel(self, sentinel: Address) -> Reply:
        dialer = Dialer(replace(sentinel, user=None, password=None, db=0), self._ssl_context, self._timeout)
        connection = await dialer.open()
        try:
            return await self._ask(connection, 'SENTINEL', 'GET-MASTER-ADDR-BY-NAME', self._service)
        finally:
            await dialer.close(connection)

    async def _check_primary(self, connection: Connection, address: Address) -> None:
        match await self._ask(connection, 'ROLE'):
            case [b'master', *_]:
                pass
            case [bytes(role), *_]:
                raise TorrelqueConnectionError(f'{address}: not the primary (any more) but a {role.decode()}')
            case TorrelqueReplyError(code='NOPERM'):
                pass  # the user may not ask; a replica answers READONLY to what follows
            case other:
                raise TorrelqueConnectionError(f'{address}: ROLE was answered: {other!r:.100}')

    async def _ask(self, connection: Connection, *words: str) -> Reply:
        with anyio.move_on_after(self._timeout):
            await connection.send(pack_words(words))
            return (await connection.receive())[0]
        raise TorrelqueConnectionError(f'{self.address}: no answer to {words[0]} within {self._timeout:g} s')


class SentinelTransport(NativeTransport):
    """The primary of a service, found anew for each connection."""

    fails_over = True

    def __init__(
        self,
        addresses: Sequence[Address],
        service: str,
        *,
        ssl_context: ssl.SSLContext | None,
        retry_timeout: float,
        connect_timeout: float,
        response_timeout: float,
    ) -> None:
        super().__init__(
            addresses[0],
            ssl_context=ssl_context,
            retry_timeout=retry_timeout,
            connect_timeout=connect_timeout,
            response_timeout=response_timeout,
            dialer=SentinelDialer(addresses, service, ssl_context, connect_timeout),
        )
