"""Repeats calls whose connection broke. Calls that may have broken it are sent alone."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias

import anyio

from torrelque.core.backoff import Backoff
from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
    is_demoted,
)

__all__ = ('LARGE', 'Policy', 'PoolFullError', 'demoted', 'mark_cut', 'refused_as_too_large', 'repeat', 'to_repeat')

LARGE = 512 * 1024
"""Bytes from which a call may be too large: servers' limits cannot be set below a mebibyte."""

WORD = 16
"""Maximum overhead of a word on the wire, in bytes."""

TRIES_ALONE = 2
"""How many times a large call is sent alone before it fails."""

TRIES_OF_ANSWER = 5
"""The same of a small call, whose answer may be too large."""

BACKOFF = Backoff(0.05, 0.5)
"""Pauses between these."""

LOAD = 'SCRIPT LOAD'

BULK, QUERY = b'proto-max-bulk-len', b'client-query-buffer-limit'
OUTPUT = b'client-output-buffer-limit'

Attempt: TypeAlias = Callable[[Batch], Awaitable[Sequence[Reply]]]
Pause: TypeAlias = Callable[[float], Awaitable[object]]
"""Lets some seconds pass."""
Policy: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Calls a function as often as the client's settings say."""


class PoolFullError(TorrelqueConnectionError):
    """All connections of the client's pool were in use for too long. Nothing was sent."""


def demoted(replies: Sequence[Reply]) -> bool:
    """Return whether a server answered that it is a replica. A new connection may lead to the primary."""
    return any(map(is_demoted, replies))


def refused_as_too_large(replies: Sequence[Reply]) -> bool:
    """Return whether the server refused a value as too large. It does so before it closes the connection."""
    return any(isinstance(reply, TorrelqueReplyError) and 'Protocol error: invalid' in str(reply) for reply in replies)


def to_repeat(batch: Batch, places: Sequence[int], wanted: Collection[int]) -> list[int]:
    """Return which of a batch's calls at ``places`` to send again: those ``wanted``, with their scripts.

    A script that was loaded for a call has to be where the call runs in the end.
    """
    last = max(wanted)
    return [index for index in places if index in wanted or (batch[index].command == LOAD and index < last)]


def size_of(call: Call[Any]) -> int:
    """Return the size of a call's words in bytes."""
    return sum([word.bit_length() if isinstance(word, int) else len(word) for word in call.words()])


def mark_cut(error: Exception) -> None:
    """Record that a connection broke while it owed answers."""
    if not isinstance(error, TorrelqueHandshakeError | TorrelqueReplyError | TorrelqueResponseTimeout):
        error.__dict__['_cut'] = True


def _is_cut(error: Exception) -> bool:
    return bool(getattr(error, '_cut', False))


async def repeat(
    batch: Batch, attempt: Attempt, policy: Policy, *, together: bool = False, pause: Pause = anyio.sleep
) -> Sequence[Reply]:
    """Send a batch; if its connection breaks, send it again, and then as often as the client's policy says.

    It is also sent again if a server answers that it is a replica now:
    ``attempt`` has dropped its connections then, and the next may lead to
    another server. Calls that are large, or over which two connections broke,
    are sent alone: if one breaks its connection again and again, though the
    server answers others, its reply is a TorrelqueTooLargeError.

    Args:
        batch: The calls, which are safe to repeat.
        attempt: Sends calls once.
        policy: Calls a function as often as the client's settings say.
        together: Always send the calls together.
        pause: Lets some seconds pass.

    Raises:
        TorrelqueConnectionError: The error of the last attempt; at once if
            trying again cannot help.
        TorrelqueTooLargeError: Only of calls that belong together.

    """
    try:
        replies = await attempt(batch)
        if not demoted(replies) and not refused_as_too_large(replies):
            return replies
        suspicious = refused_as_too_large(replies)
    except TorrelqueConnectionError as error:
        if _lasts(error):
            raise
        suspicious = not isinstance(error, TorrelqueResponseTimeout)
    again = _Again(attempt, policy, pause)
    if suspicious and sum(map(size_of, batch)) >= LARGE:
        return await again.apart(batch, together=together, suspects=_is_large)
    try:
        return await again.by_policy(batch, until_cut=True)
    except TorrelqueConnectionError as error:
        if not _is_cut(error):
            raise
    try:
        return await again.apart(batch, together=together, suspects=lambda _: True)
    except TorrelqueConnectionError as error:  # it is not the calls
        if _lasts(error):
            raise
        return await again.by_policy(batch)


def _lasts(error: TorrelqueConnectionError) -> bool:
    return isinstance(error, TorrelqueHandshakeError | PoolFullError)


def _is_large(call: Call[Any]) -> bool:
    return size_of(call) >= LARGE


class _Again:
    """Sends calls again whose connection broke. See `repeat`."""

    def __init__(self, attempt: Attempt, policy: Policy, pause: Pause) -> None:
        self._attempt = attempt
        self._policy = policy
        self._pause = pause

    async def by_policy(self, batch: Batch, *, until_cut: bool = False) -> Sequence[Reply]:
        async def once() -> Sequence[Reply] | TorrelqueConnectionError:
            try:
                return await self._attempt(batch)
            except TorrelqueConnectionError as error:
                if _lasts(error) or (until_cut and _is_cut(error)):  # returned, as the policy would try again
                    return error
                raise

        outcome: Sequence[Reply] | TorrelqueConnectionError = await self._policy(once)
        if isinstance(outcome, TorrelqueConnectionError):
            raise outcome
        return outcome

    async def apart(self, batch: Batch, *, together: bool, suspects: Callable[[Call[Any]], bool]) -> Sequence[Reply]:
        """Send each call alone, or all ``together``."""
        if together:
            return await self._suspected(batch)
        return [await self._alone(call) if suspects(call) else (await self.by_policy((call,)))[0] for call in batch]

    async def _alone(self, call: Call[Any]) -> Reply:
        try:
            return (await self._suspected((call,)))[0]
        except TorrelqueTooLargeError as error:
            return error

    async def _suspected(self, batch: Batch) -> Sequence[Reply]:
        """Send calls a few times. Raises TorrelqueTooLargeError if the server answers only other calls."""
        cause: Exception | None = None
        large = any(map(_is_large, batch)) or sum(map(size_of, batch)) >= LARGE
        for failures in range(TRIES_ALONE if large else TRIES_OF_ANSWER):
            if failures and not large:
                await self._pause(BACKOFF.pause(failures, random.random))
            try:
                replies = await self._attempt(batch)
            except TorrelqueConnectionError as error:
                if _lasts(error) or isinstance(error, TorrelqueResponseTimeout) or not (large or _is_cut(error)):
                    raise
                cause = error
            else:
                if not refused_as_too_large(replies):
                    return replies
        raise await self._too_large(batch) from cause

    async def _too_large(self, batch: Batch) -> TorrelqueTooLargeError:
        """Return what to raise. Raises TorrelqueConnectionError if the server is away altogether."""
        bulk, query, output = await self._settings(batch)
        words = [word for call in batch for word in call.words()]
        size = sum(map(size_of, batch))
        longest = max(len(word) for word in words if not isinstance(word, int))
        limits, limit = f'see {BULK.decode()} and {QUERY.decode()}, or the limits of a proxy', None
        if size < LARGE:
            told = f' ({output})' if output else ''
            limits = f'the answer may be too large, see {OUTPUT.decode()}{told}, or the limits of a proxy'
        for name, most, actual in ((BULK, bulk, longest), (QUERY, query, size + len(words) * WORD)):
            if limit is None and most and most.isdigit() and actual > int(most):
                limits, limit = f'its limit is {int(most):,} bytes ({name.decode()})', int(most)
        message = f'the server closes the connection over a call of {size:,} bytes: {limits}'
        return TorrelqueTooLargeError(message, size, limit)

    async def _settings(self, batch: Batch) -> list[str]:
        """Return the server's limits; empty what the user may not read."""
        calls = [Call[Reply]('CONFIG GET', args=(name,), near=batch[0].routing_key) for name in (BULK, QUERY, OUTPUT)]
        try:
            replies = await self._attempt(calls)
        except TorrelqueConnectionError as error:
            if _lasts(error):
                raise
            replies = await self.by_policy(calls)
        return [reply[1].decode() if isinstance(reply, list) and len(reply) > 1 else '' for reply in replies]
