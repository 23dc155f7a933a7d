"""Audits a queue with shards, at a cost that depends on how many of them have keys."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable
from dataclasses import replace

from torrelque.core import flow
from torrelque.core.auditing import Violation
from torrelque.core.keys import Keys
from torrelque.core.protocol import Operation
from torrelque.core.scripts import ScriptSet
from torrelque.core.sharding.auditing import check_record, check_results, check_stranded
from torrelque.core.sharding.layout import Layout, RecordKeys, refresh_layout
from torrelque.engine.engine import Engine

__all__ = ('audit_shards',)

AT_ONCE = 50
"""Number of shards that are audited at the same time, in shared round trips."""


async def audit_shards(
    engine: Engine,
    scripts: ScriptSet,
    records: RecordKeys,
    layout: Layout,
    scan: AsyncIterable[tuple[int, list[bytes]]],
    check: Callable[..., Operation[list[Violation]]],
    *,
    repair: bool,
) -> list[Violation]:
    """Check the queue as a whole, and each shard that has keys.

    Args:
        engine: Runs the operations.
        scripts: The scripts.
        records: The keys that record the layout.
        layout: The layout.
        scan: Walks once through the keys of all shards.
        check: Checks one shard: called with its keys, and its existing keys as ``seen``.
        repair: Repair what is safe to repair.

    Returns:
        The violations.
    """
    found = await engine.run(check_stranded(scripts, records, layout, os.urandom(8).hex(), repair=repair))
    found += await _check_records(engine, scripts, records, layout, repair=repair)
    seen: dict[int, set[bytes]] = {}
    async for shard, some in scan:
        seen.setdefault(shard, set()).update(some)
    checks: list[Operation[list[Violation]]] = []
    for shard, names in sorted(seen.items()):
        keys: Keys = records.shard(shard)
        if layout.former:
            ids = sorted(keys.ids_in(names))
            checks.append(check_results(scripts, records, layout, shard, ids, repair=repair))
        checks.append(check(keys=keys, seen=names))
    for first in range(0, len(checks), AT_ONCE):
        for each in await engine.run_each(checks[first : first + AT_ONCE]):
            found += each
    return found


async def _check_records(
    engine: Engine, scripts: ScriptSet, records: RecordKeys, layout: Layout, *, repair: bool
) -> list[Violation]:
    async def check() -> list[Violation]:
        everywhere = (records.main, *records.copies(layout.total))
        checked = await engine.run_each([check_record(keys, layout) for keys in everywhere])
        shards = [records.shard(shard) for shard in range(layout.total)]
        pauses = await engine.run_each([flow.read(keys) for keys in shards])
        newest = max(map(flow.revision_of, pauses))
        return [
            *(violation for violation in checked if violation is not None),
            *(
                Violation('record', keys['counters'].decode(), None, 'has a former record of a pause or of limits')
                for keys, record in zip(shards, pauses, strict=True)
                if flow.revision_of(record) != newest
            ),
        ]

    found = await check()
    if found:  # perhaps only what was being written just then
        again = await check()
        found = [violation for violation in found if violation in again]
    if found and repair:
        await engine.run(refresh_layout(scripts, records, layout, again=True))
        left = await check()
        found = [replace(each, repaired=each not in left) for each in found]
    return found
