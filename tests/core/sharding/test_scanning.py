"""One walk through the keys finds those of all shards, and no others."""

from __future__ import annotations

from torrelque.core.protocol import Call, Reply, blocking_drive
from torrelque.core.sharding.scanning import scan_shards
from torrelque.transports.memory.server import MemoryServer


def found(queue: str, rest: str, *keys: str) -> dict[int, list[bytes]]:
    server = MemoryServer(lambda: 1000.0)
    for key in keys:
        server.call(Call[Reply]('HSET', (key.encode(),), ('field', 'value')))
    cursor, groups = blocking_drive(
        scan_shards(queue, rest, b'0', None), lambda batch: [server.call(call) for call in batch]
    )
    assert cursor == b'0'
    return {shard: sorted(keys) for shard, keys in groups.items()}


def test_keys_come_by_shard() -> None:
    keys = ('{q:0}:tasks', '{q:12}:tasks', '{q:12}:task:a', 'q:tasks', '{q}:counters', '{qq:0}:tasks')
    assert found('q', '', *keys) == {0: [b'{q:0}:tasks'], 12: [b'{q:12}:task:a', b'{q:12}:tasks']}


def test_only_keys_that_begin_so_come() -> None:
    keys = ('{q:3}:task:a}:b', '{q:3}:tasks', '{q:3}:x:task:a', '{q:03}:task:a', '{q:x}:task:a', '{q:4}x:task:a')
    assert found('q', 'task:', *keys) == {3: [b'{q:3}:task:a}:b']}


def test_names_are_taken_literally() -> None:
    assert found('q*', '', '{q*:0}:tasks', '{qa:0}:tasks') == {0: [b'{q*:0}:tasks']}
