"""Each test runs in memory, on a server and on a cluster, unless it says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.queue.sharding.support import SETTINGS, Place
from tests.transports.settings import LOOPS, Setting


@pytest.fixture(params=SETTINGS, ids=str)
def setting(request: pytest.FixtureRequest) -> Setting:
    chosen: Setting = request.param
    return chosen


@pytest.fixture
def anyio_backend(setting: Setting) -> Any:  # noqa: ANN401 - a name and the plugin's options for it
    return LOOPS[setting.loop]


@pytest.fixture
def place(setting: Setting) -> Place:
    return Place(setting)
