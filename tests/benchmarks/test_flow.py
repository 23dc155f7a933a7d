"""The table of what flow control costs is made, on little: what is measured here says nothing."""

from __future__ import annotations

import pytest

from benchmarks import flow
from tests import servers


@pytest.mark.server
def test_each_feature_is_measured_beside_a_plain_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, 'BLOCKED', 300)
    try:
        servers.find('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    found = flow.measure(1, settings={'seconds': 0.02, 'warm_up': 0.0})
    assert len(found) == len(flow.FEATURES)
    assert all(result['tasks'] > 0 for (result,) in found.values())
    table, _, remark = flow.table(found).partition('\n\n')
    header, _, plain, *rows = table.splitlines()
    assert plain.startswith('| a plain task |')
    assert plain.count(' 1.00 |') >= 1
    assert len(rows) == len(flow.FEATURES) - 1
    assert {row.count('|') for row in rows} == {header.count('|')}
    assert 'beside 100,000 blocked groups costs the server' in remark
