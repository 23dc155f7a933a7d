"""Examples are about the library, which has been tried on every kind of server: one is enough for them."""

from __future__ import annotations

import pytest

from tests import servers


@pytest.fixture
def server() -> servers.Server:
    """A server, empty."""
    try:
        shared = servers.shared('valkey-9.1')
    except servers.MissingServerError as error:
        pytest.skip(str(error))
    shared.flush()
    return shared
