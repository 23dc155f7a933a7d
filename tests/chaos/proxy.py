"""A proxy on loopback that cuts, stalls and half-delivers at any byte."""

from __future__ import annotations

import random
import socket
import struct
import sys
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Self

RESET = struct.pack('ii', 1, 0)  # SO_LINGER for no time: closing sends a reset

PIECE = 16384


class Proxy:
    """Threads, one for each direction of a connection, so that it needs none of the loops under test.

    Each direction carries a random number of bytes and then does one of these:

    - cut: what came before is delivered, and both sides see the end, or a reset;
    - stall: the rest waits, perhaps for longer than the client does, and is delivered late even if the client has gone.

    Without ``mean`` it carries all until `sever`. What clients send takes its time at ``rate`` bytes a second.
    """

    def __init__(self, port: int, seed: int, mean: int | None = 8000, rate: float | None = None) -> None:
        self.done: Counter[str] = Counter()
        self._severed = 0
        self._swallowed = 0
        self._pumps: list[threading.Thread] = []
        self._target = ('127.0.0.1', port)
        self._seed = seed
        self._mean = mean
        self._rate = rate
        self._ended = threading.Event()
        self._listener = socket.create_server(('127.0.0.1', 0))
        if rate is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)  # or all would be here at once

    @property
    def url(self) -> str:
        return f'redis://127.0.0.1:{self._listener.getsockname()[1]}'

    def sever(self) -> None:
        """Cut all connections that there are, each at one of the next bytes that it carries."""
        self._severed += 1

    def swallow(self) -> None:
        """Forward nothing more on the connections that there are, and leave them open, as a NAT that forgot them."""
        self._swallowed += 1

    def redirect(self, port: int) -> None:
        """Lead new connections to another server, as an address that moved. The others stay where they are."""
        self._target = ('127.0.0.1', port)

    def finish(self) -> None:
        """When all clients have gone: wait until what they sent has arrived, however late."""
        for pump in list(self._pumps):
            pump.join(60)
            assert not pump.is_alive(), 'something is still under way'

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._ended.is_set():
                client, _ = self._listener.accept()
                self.done['connections'] += 1
                server = socket.create_connection(self._target)
                for direction, ends in enumerate([(client, server), (server, client)]):
                    rng = random.Random(f'{self._seed} {self.done["connections"]} {direction}')
                    thread = threading.Thread(target=self._pump, args=(*ends, direction == 0, rng), daemon=True)
                    self._pumps.append(thread)
                    thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, from_client: bool, rng: random.Random) -> None:
        left, severed, swallowed = self._bytes(rng), self._severed, self._swallowed
        with suppress(OSError):
            while data := source.recv(PIECE if self._rate is not None else 65536):
                if swallowed < self._swallowed:
                    continue
                if self._rate is not None and from_client:
                    self._ended.wait(len(data) / self._rate)
                if severed < self._severed:
                    left = min(left, rng.randrange(400))
                while len(data) > left:
                    sink.sendall(data[:left])
                    data, left = data[left:], self._bytes(rng)
                    if severed < self._severed or rng.random() < 0.6:
                        self.done['cuts'] += 1
                        return self._close((source, sink), reset=rng.random() < 0.5)
                    self.done['stalls'] += 1
                    self._ended.wait(rng.choice([0.02, 0.02, 0.3, 1.5]))
                sink.sendall(data)
                left -= len(data)
        if swallowed < self._swallowed and not from_client:
            self._ended.wait()  # the server has given up, of which the client is not to hear
        self._close((source, sink), reset=False)
        return None

    def _bytes(self, rng: random.Random) -> int:
        return sys.maxsize if self._mean is None else int(rng.expovariate(1 / self._mean))

    def _close(self, ends: tuple[socket.socket, ...], *, reset: bool) -> None:
        for end in ends:
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)  # wakes the other direction's thread
            end.close()
