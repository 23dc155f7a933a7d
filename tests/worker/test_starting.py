"""Waiting for the server at the start."""

from __future__ import annotations

import logging

import pytest

from torrelque import TorrelqueConnectionError, TorrelqueHandshakeError
from torrelque.worker import starting
from torrelque.worker.starting import until_usable

pytestmark = pytest.mark.anyio


async def test_it_repeats_the_call_and_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starting, 'PAUSE', lambda *_: 0.0)
    calls: list[int] = []

    async def attempt() -> str:
        calls.append(1)
        if len(calls) < 4:
            raise TorrelqueConnectionError('refused')
        return 'client'

    with caplog.at_level(logging.WARNING):
        assert await until_usable(attempt) == 'client'
    assert [record.getMessage() for record in caplog.records] == [
        'The server cannot be used yet, trying again until it can: refused'
    ]


async def test_what_waiting_cannot_fix_is_raised() -> None:
    async def attempt() -> None:
        raise TorrelqueHandshakeError('untrusted')

    with pytest.raises(TorrelqueHandshakeError):
        await until_usable(attempt)
