"""What the tests of rights share."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite('tests.acl.works')


@pytest.fixture
def anyio_backend() -> str:
    """One for all, since rights are the server's business."""
    return 'asyncio'
