"""What the parts of a queue object share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from torrelque import Durability, Torrelque
from torrelque.engine.runtime import Runtime
from torrelque.testing import MemoryTransport
from torrelque.transports.failover import FailoverTransport

pytestmark = pytest.mark.anyio


@dataclass
class Options:
    queue: str = 'q'
    keys: Mapping[str, str] = field(default_factory=dict)
    max_rejected: int | None = None
    durability: Durability | None = None
    failover_timeout: float | None = None
    shards: int | None = None


def runtime(
    transport: MemoryTransport | None = None, renamed: Mapping[str, str] | None = None, **options: object
) -> Runtime:
    return Runtime(transport or MemoryTransport(), Options(**options), renamed or {})  # type: ignore[arg-type]


def test_keys_have_the_queues_name_in_braces_where_nodes_share_the_queue() -> None:
    assert runtime().keys['pending'] == b'q:pending'
    assert runtime(shards=2).keys['pending'] == b'{q}:pending'
    assert runtime().full_names['pending'] == 'q:pending'


def test_keys_that_are_renamed() -> None:
    assert runtime(renamed={'pending': 'todo'}).full_names['pending'] == 'q:todo'
    assert runtime(keys={'pending': 'elsewhere'}).keys['pending'] == b'elsewhere'
    assert runtime(keys={'pending': 'elsewhere'}).keys['working'] == b'q:working'


def test_options_are_read_when_they_are_needed() -> None:
    options = Options()
    parts = Runtime(MemoryTransport(), options, {})
    options.max_rejected = 7
    options.keys = {'working': 'late'}
    assert (parts.max_rejected, parts.keys['working']) == (7, b'late')
    options.keys = {'working': 'too late'}
    assert parts.keys['working'] == b'late', 'from the first use on they stay'


def test_calls_are_repeated_where_that_was_asked_for() -> None:
    assert isinstance(runtime(failover_timeout=3).transport, FailoverTransport)
    transport = MemoryTransport()
    assert runtime(transport).transport is transport
    assert runtime(transport, failover_timeout=0).transport is transport


def test_scripts_are_shared() -> None:
    assert runtime().scripts is runtime(queue='other').scripts
    assert runtime().scripts is not runtime(shards=2).scripts


async def test_there_is_one_engine() -> None:
    parts = Torrelque(MemoryTransport(), queue='q')._runtime
    assert parts.engine is parts.engine


async def test_the_callers_own_transport_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[MemoryTransport] = []

    async def aclose(self: MemoryTransport) -> None:
        closed.append(self)

    monkeypatch.setattr(MemoryTransport, 'aclose', aclose)
    transport = MemoryTransport()
    await runtime(transport).close_transport()
    assert closed == []
    monkeypatch.setattr(Runtime, 'adapt', staticmethod(lambda _: transport))
    await Runtime(object(), Options(), {}).close_transport()
    assert closed == [transport]
