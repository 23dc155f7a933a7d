"""A web application with a background task, in one process: the pages, the worker, and a server if none is given.

Run it in the folder above ``examples``, and open the address that it prints::

    python -m examples.webapp

``--url redis://localhost:6379`` uses a Redis or Valkey server that is there. As the
application keeps nothing itself, any number of such processes can share one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging

import redis.asyncio
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from examples.webapp.app import make_app
from examples.webapp.report import ReportMaker
from torrelque import Torrelque, Worker, retry
from torrelque.embedded import EmbeddedServer


async def serve(url: str, port: int, seconds: float, backoff: float) -> None:
    policy = retry.exponential(base=backoff, factor=2, jitter=0, attempts=5)
    async with redis.asyncio.Redis.from_url(url) as client, Torrelque(client, queue='reports') as queue:
        worker = Worker(queue, ReportMaker(seconds), concurrency=4, retry=policy, grace=5, handle_signals=True)
        sockets = bind_sockets(port, '127.0.0.1')
        server = HTTPServer(make_app(queue, policy))
        server.add_sockets(sockets)
        print(f'Open http://localhost:{sockets[0].getsockname()[1]}/ (Ctrl-C stops)', flush=True)
        await worker.run()  # until SIGTERM or Ctrl-C
        server.stop()
        await server.close_all_connections()


def main() -> None:
    parser = argparse.ArgumentParser(description='A web application with a background task.')
    parser.add_argument('--url', help='of a Redis or Valkey server; without it one is started')
    parser.add_argument('--port', type=int, default=8888, help='of the pages; 0 picks a free one')
    parser.add_argument('--seconds', type=float, default=1.5, help='that an attempt takes')
    parser.add_argument('--backoff', type=float, default=2, help='seconds between the first and the second attempt')
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    with contextlib.ExitStack() as stack:
        url = arguments.url or stack.enter_context(EmbeddedServer()).url
        asyncio.run(serve(url, arguments.port, arguments.seconds, arguments.backoff))


if __name__ == '__main__':
    main()
