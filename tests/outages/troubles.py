"""Ways in which a server cannot be used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from tests import servers
from tests.clusters import Cluster
from tests.outages.valve import Valve
from tests.servers import Client, Server

__all__ = ('TROUBLES', 'Trouble')

KIND = 'valkey-9.1'

LASTING = ('--appendonly', 'yes', '--appendfsync', 'always')
"""A server that is killed and started again has its tasks still."""


class Trouble(ABC):
    """A server, and a cluster where the trouble is one of clusters, too, with something that makes them unusable."""

    on_cluster = False

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.server: Server = servers.start(KIND, *LASTING)
        self._stack.callback(self.server.close)
        self.cluster: Cluster | None = self._stack.enter_context(Cluster(KIND, *LASTING)) if self.on_cluster else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def port(self) -> int:
        """Where clients are to connect."""
        return self.server.port

    @property
    def all_servers(self) -> Sequence[Server]:
        return [self.server, *(self.cluster.nodes if self.cluster else ())]

    @abstractmethod
    def begin(self) -> None:
        """From now on no server can be used."""

    @abstractmethod
    def end(self) -> None:
        """From now on they can."""


class Gone(Trouble):
    """Killed; nobody listens on the port."""

    on_cluster = True

    def begin(self) -> None:
        for server in self.all_servers:
            server.kill()

    def end(self) -> None:
        for server in self.all_servers:
            server.start()


class Refused(Trouble):
    """The table of connections is full."""

    on_cluster = True

    def __init__(self) -> None:
        super().__init__()
        self._own: list[Client] = []
        self._before = b''

    def begin(self) -> None:
        for server in self.all_servers:
            client = self._stack.enter_context(server.client())
            self._own.append(client)
            _, self._before = client.command('CONFIG', 'GET', 'maxclients')
            client.command('CONFIG', 'SET', 'maxclients', 1)
            client.command('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
            client.command('CLIENT', 'KILL', 'TYPE', 'pubsub')

    def end(self) -> None:
        for client in self._own:
            client.command('CONFIG', 'SET', 'maxclients', self._before)
            client.close()


class _Proxied(Trouble):
    def __init__(self) -> None:
        super().__init__()
        self.valve = self._stack.enter_context(Valve(self.server.port))

    @property
    def port(self) -> int:
        return self.valve.port

    def end(self) -> None:
        self.valve.open()


class Cut(_Proxied):
    """Each connection is closed as soon as it is made."""

    def begin(self) -> None:
        self.valve.cut()


class Silent(_Proxied):
    """Connections are made, and are silent; those that there were are silent for good."""

    def begin(self) -> None:
        self.valve.silence()


TROUBLES: dict[str, type[Trouble]] = {'gone': Gone, 'refused': Refused, 'cut': Cut, 'silent': Silent}
