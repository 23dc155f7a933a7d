"""A primary of a cluster dies under load, in short; ``python -m tests.chaos.failovers`` goes on for longer."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

from tests import servers
from tests.chaos.failovers import RESUMED_IN, Findings, run
from tests.clusters import Cluster


@pytest.mark.server
@pytest.mark.timeout(240)
def test_what_was_confirmed_outlives_its_primary() -> None:
    try:
        cluster = Cluster('valkey-9.1', replicas=1)
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    try:
        findings = anyio.run(run, cluster, 0.0, 1)
    finally:
        cluster.close()
    assert findings.violations == []
    assert findings.figures['primaries killed'] == len(findings.resumed) == 1
    assert findings.confirmed
    assert findings.ended


def test_the_driver_notices() -> None:
    good = Findings(confirmed={'a'}, acknowledged={'a', 'b'}, begun={'a', 'b'}, ended={'a'}, handled=Counter('a'))
    assert good.violations == []
    assert good.unconfirmed_lost == 1
    assert 'which 1 were lost' in str(good)
    good.handled['c'] += 1
    assert good.violations == ['c: handled, but never enqueued']
    bad = Findings(confirmed={'a'}, begun={'a'}, after_the_end=['b'], audited=['lost'], resumed=[RESUMED_IN + 1])
    assert len(bad.violations) == 3
    assert len(bad.exceeded) == 1
