"""After an outage everybody is back within a slice, and nothing is left of it.

``python -m tests.outages`` is the long form.
"""

from __future__ import annotations

import pytest

from tests.outages.playing import play
from tests.servers import MissingServerError

OUTAGE = 6.0
SILENCE = 12.0
"""Seconds. What is silent has to be found out first."""

CASES = (
    ('gone', 'asyncio+uvloop'),
    ('gone', 'trio'),
    ('refused', 'asyncio'),
    ('refused', 'trio'),
    ('cut', 'asyncio'),
    ('cut', 'trio'),
    ('silent', 'asyncio+uvloop'),
    ('silent', 'trio'),
)


@pytest.mark.parametrize(('trouble', 'loop'), CASES, ids=str)
def test_everybody_comes_back(trouble: str, loop: str) -> None:
    try:
        report = play(trouble, loop, SILENCE if trouble == 'silent' else OUTAGE, hurry=True)
    except MissingServerError as error:
        pytest.skip(str(error))
    if report.late or report.grown:
        pytest.fail(str(report), pytrace=False)
