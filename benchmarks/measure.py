"""Measures one row of one system, in a process of the system's own environment.

Started with ``python -P -c BOOT SYSTEM CLIENT LOOP ROW URL SETTINGS``; see `running`. For each line on stdin it
measures once, on an empty server, and prints one line of JSON.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import logging
import sys

import anyio

from benchmarks.metering import Meter, ServerInfo
from benchmarks.rows import ROWS, Result, Settings
from benchmarks.systems import load


async def measure(system: str, client: str, row: str, url: str, settings: Settings) -> Result:
    with ServerInfo(url) as info:
        async with load(system)(url, client) as subject:
            return await ROWS[row](subject, Meter(info), settings)


def run(system: str, client: str, loop: str, row: str, url: str, settings: Settings) -> Result:
    """Run a row in an event loop of its own: asyncio, uvloop or trio."""
    if loop == 'trio':
        return anyio.run(measure, system, client, row, url, settings, backend='trio')
    options = {'use_uvloop': loop == 'uvloop'}
    return anyio.run(measure, system, client, row, url, settings, backend_options=options)


def main() -> None:
    logging.basicConfig(level=logging.ERROR)  # what a system says at each task would be measured, too
    system, client, loop, row, url, settings = sys.argv[1:]
    versions = {part.metadata['Name'].lower(): part.version for part in importlib.metadata.distributions()}
    for _ in sys.stdin:
        with ServerInfo(url) as info:
            info.flush()
        gc.collect()
        result = run(system, client, loop, row, url, json.loads(settings))
        print(json.dumps({'result': result, 'versions': versions, 'python': sys.version.split()[0]}), flush=True)
