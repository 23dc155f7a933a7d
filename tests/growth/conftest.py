"""Leaves out what is known to fail, in one list."""

from __future__ import annotations

import re

import pytest

KNOWN = (
    # The sessions of all shards that there have been, and their entries of {queue:0}:ring and {queue}:counters.
    r'test_nothing_grows\[resharding_to_ever_more_and_back-',
)
"""Patterns of the names of tests that fail, and why, until it is repaired."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = [item for item in items if any(re.match(pattern, item.name) for pattern in KNOWN)]
    if known and not config.getoption('--known'):
        config.hook.pytest_deselected(items=known)
        items[:] = [item for item in items if item not in known]
