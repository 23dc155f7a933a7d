"""What a measurement costs: wall clock, the CPU of the client's process, the CPU of the server."""

from __future__ import annotations

import socket
import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class ServerInfo:
    """INFO, on a blocking connection of its own."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._socket = socket.create_connection((address.hostname, address.port), timeout=60)
        self._file = self._socket.makefile('rb')

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read(self, section: str) -> dict[str, str]:
        self._socket.sendall(f'INFO {section}\r\n'.encode())
        length = int(self._file.readline()[1:])
        text = self._file.read(length + 2).decode()
        return dict(line.split(':', 1) for line in text.splitlines() if ':' in line)

    def flush(self) -> None:
        """Delete all keys of database 0, which all rows use but those that keep theirs."""
        self._socket.sendall(b'FLUSHDB\r\n')
        self._file.readline()

    def cpu(self) -> float:
        """Seconds of CPU that the server's process has used, in user and kernel mode, from getrusage."""
        info = self.read('cpu')
        return float(info['used_cpu_user']) + float(info['used_cpu_sys'])

    def build(self) -> str:
        """Name and version of the server, and what it was built with."""
        info = self.read('server') | self.read('memory')
        name = f'Valkey {info["valkey_version"]}' if 'valkey_version' in info else f'Redis {info["redis_version"]}'
        return f'{name}, allocator {info["mem_allocator"]}, gcc {info["gcc_version"]}'

    def used_memory(self) -> int:
        """Bytes that the server has allocated, without the buffers of its clients."""
        info = self.read('memory')
        return int(info['used_memory']) - int(info['mem_clients_normal'])


class Meter:
    """Measures from `start` to `stop`; asking the server is not measured."""

    def __init__(self, info: ServerInfo) -> None:
        self._info = info
        self.seconds = self.client_cpu = self.server_cpu = 0.0

    def start(self) -> None:
        self._server = self._info.cpu()
        self._client = time.process_time()
        self._time = time.perf_counter()

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._time
        self.client_cpu = time.process_time() - self._client
        self.server_cpu = self._info.cpu() - self._server

    def result(self, tasks: int) -> dict[str, float]:
        """Tasks a second, and CPU of both sides in microseconds a task."""
        return {
            'tasks': tasks,
            'rate': tasks / self.seconds,
            'client_us': self.client_cpu / tasks * 1e6,
            'server_us': self.server_cpu / tasks * 1e6,
        }
