"""Sentinels for tests: they watch over a primary and its replica, and promote that when the primary is gone."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.servers import Server, find, start
from torrelque.embedded import TiedProcess, _free_port  # the ports that Server takes, too

SERVICE = 'mail'
PATIENCE = 30.0
"""Seconds until they must know each other."""

FAILOVER_TIMEOUT = 2.0
"""Seconds. For twice as long after a fail-over a sentinel that took part in it begins no other."""

DOWN_AFTER = 1.5
"""Seconds. With half a second sentinels now and then took a primary for dead that they had just promoted."""

CONFIG = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {service} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {service} {down_after:.0f}
sentinel failover-timeout {service} {timeout:.0f}
"""


class Watched:
    """A primary, ``replicas`` of it, and three sentinels that watch over them. They die with this process."""

    def __init__(self, name: str = 'valkey-9.1', replicas: int = 1) -> None:
        self._stack = ExitStack()
        self.ports: list[int] = []
        try:
            self.primary: Server = self._start_server(name)
            follow = '--replicaof', f'127.0.0.1 {self.primary.port}'
            self.replicas: list[Server] = [self._start_server(name, *follow) for _ in range(replicas)]
            binary, _ = find(name)
            for _ in range(3):
                self._start_sentinel(binary)
            self._until_ready()
        except BaseException:
            self._stack.close()
            raise

    @property
    def replica(self) -> Server:
        """The first that was made one."""
        return self.replicas[0]

    @property
    def servers(self) -> list[Server]:
        """All, in whatever role."""
        return [self.primary, *self.replicas]

    @property
    def told(self) -> set[int]:
        """The ports that the sentinels tell clients who ask for the primary."""
        ports: set[int] = set()
        for port in self.ports:
            with redis.Redis(port=port, decode_responses=True) as client:
                address: Any = client.sentinel_get_master_addr_by_name(SERVICE)
                ports.add(int(address[1]))
        return ports

    @property
    def hosts(self) -> str:
        """The sentinels' addresses, as a URL lists them."""
        return ','.join(f'127.0.0.1:{port}' for port in self.ports)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start_server(self, name: str, *arguments: str) -> Server:
        server = start(name, '--repl-diskless-sync-delay', '0', *arguments)
        self._stack.callback(server.close)
        return server

    def _start_sentinel(self, binary: Path) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='sentinel-')))
        port = _free_port()
        config = folder / 'sentinel.conf'
        told = CONFIG.format(
            port=port,
            folder=folder,
            service=SERVICE,
            primary=self.primary.port,
            down_after=DOWN_AFTER * 1000,
            timeout=FAILOVER_TIMEOUT * 1000,
        )
        config.write_text(told)
        with (folder / 'log').open('wb') as log:
            process = TiedProcess([str(binary), str(config), '--sentinel'], output=log.fileno())
        self._stack.callback(process.kill)
        self.ports.append(port)

    def _until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all(map(self._knows_all, self.ports)):
            if time.monotonic() > deadline:
                raise TimeoutError(f'the sentinels at {self.ports} do not find each other')
            time.sleep(0.05)

    def _knows_all(self, port: int) -> bool:
        """Whether it sees the replicas in step and the other two."""
        try:
            with redis.Redis(port=port, decode_responses=True) as client:
                state: Any = client.sentinel_master(SERVICE)
                seen = client.sentinel_slaves(SERVICE)
        except redis.RedisError:
            return False
        told = self.primary.info('replication')
        in_step = all('state=online' in told.get(f'slave{at}', '') for at in range(len(self.replicas)))
        return state['num-other-sentinels'] == 2 and len(seen) == len(self.replicas) and in_step
