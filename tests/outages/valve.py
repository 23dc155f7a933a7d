"""A proxy on loopback that can be shut in two ways."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Literal, Self

__all__ = ('Valve',)


class Valve:
    """Threads, one for each direction of a connection, so that it needs none of the event loops under test.

    While it is *open* it carries everything. While it is *cut*, connections are closed as soon as they are made.
    While it is *silent*, they are made, and nothing ever comes of them; what was silenced once stays so.
    """

    def __init__(self, port: int) -> None:
        self._target = ('127.0.0.1', port)
        self._listener = socket.create_server(('127.0.0.1', 0), backlog=512)
        self._state: Literal['open', 'cut', 'silent'] = 'open'
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def open(self) -> None:
        """Carry what new connections bring."""
        self._state = 'open'

    def cut(self) -> None:
        """Close all connections, and new ones at once."""
        self._state = 'cut'
        self._end_all()

    def silence(self) -> None:
        """Carry nothing more."""
        self._state = 'silent'
        with self._lock:
            for pair in self._pairs:
                pair.silent = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_all()

    def _end_all(self) -> None:
        with self._lock:
            for pair in self._pairs:
                pair.shut_down()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                if self._state == 'cut':
                    client.close()
                    continue
                self._begin(client)

    def _begin(self, client: socket.socket) -> None:
        try:
            pair = _Pair(client, socket.create_connection(self._target), silent=self._state == 'silent')
        except OSError:
            client.close()
            return
        with self._lock:
            self._pairs.add(pair)
        for source, sink in ((pair.client, pair.server), (pair.server, pair.client)):
            threading.Thread(target=self._pump, args=(pair, source, sink), daemon=True).start()

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not pair.silent:
                    sink.sendall(data)
        pair.shut_down()
        with self._lock:
            pair.pumps -= 1
            if not pair.pumps:
                self._pairs.discard(pair)
                pair.close()


class _Pair:
    """A connection from a client, and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket, *, silent: bool) -> None:
        self.client = client
        self.server = server
        self.silent = silent
        self.pumps = 2

    def shut_down(self) -> None:
        """Wake both pumps."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.client.close()
        self.server.close()
