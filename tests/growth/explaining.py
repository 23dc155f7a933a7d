"""Says who holds on to objects that grow in number."""

from __future__ import annotations

import gc
from types import FrameType

from tests.growth.census import instances

__all__ = ('explain',)

DEPTH = 9
"""Holders of holders that are named."""


def explain(kind: str) -> str:
    """The chain of holders of the newest object of a type that a census names."""
    if not kind.startswith('object '):
        return f'    {kind}'
    found = instances(kind)
    if not found:
        return f'    {kind}: none left'
    chain, each = [_tell(found[-1])], found[-1]
    seen = {id(found), id(chain)}
    for _ in range(DEPTH):
        seen.add(id(each))
        holders = [
            other
            for other in gc.get_referrers(each)
            if id(other) not in seen and not isinstance(other, FrameType) and type(other).__name__ != 'list_iterator'
        ]
        if not holders:
            break
        # What says most is a container's owner, or a coroutine; the newest object is a container of ours.
        holders = [other for other in holders if other is not found and other is not holders]
        if not holders:
            break
        holder = min(holders, key=lambda other: isinstance(other, list | tuple))
        chain.append(_tell(holder))
        each = holder
        del holders
    return f'    {kind}: ' + '\n        <- '.join(chain)


def _tell(each: object) -> str:
    try:
        text = repr(each)
    except Exception as error:  # noqa: BLE001 - whatever a repr raises
        text = repr(error)
    return f'{type(each).__module__}.{type(each).__qualname__} {text[:160]}'
