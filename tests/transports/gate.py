"""A proxy on loopback that leads to one server and then to another, forgets its connections, or cuts them."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Gate:
    """Threads, so that it needs none of the event loops under test."""

    def __init__(self, port: int) -> None:
        self.target = port
        """Where new connections lead. Those that exist stay where they are."""
        self.accepted = 0
        self._ends: list[tuple[socket.socket, socket.socket]] = []
        self._forgotten: set[socket.socket] = set()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f'redis://127.0.0.1:{self.port}'

    def forget(self) -> None:
        """Pass nothing on any more over the connections that there are, and tell neither side, as a NAT may."""
        self._forgotten.update(end for pair in self._ends for end in pair)

    def cut(self) -> None:
        """Close the connections that there are."""
        for pair in self._ends:
            self._close(*pair)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                server = socket.create_connection(('127.0.0.1', self.target))
                self._ends.append((client, server))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._forgotten:
                    sink.sendall(data)
        if source not in self._forgotten:
            self._close(source, sink)

    @staticmethod
    def _close(*ends: socket.socket) -> None:
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
