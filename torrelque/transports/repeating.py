"""Repeats calls after their connection broke. A call that may be the cause is sent alone."""

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
"""Size from which a call may be too large, in bytes. Servers' limits cannot be set below a mebibyte."""

WORD = 16
"""Maximum overhead of a word on the wire, in bytes."""

TRIES_ALONE = 2
"""Number of times that a large call is sent alone before it fails."""

TRIES_OF_ANSWER = 5
"""Number of times that a small call is sent alone, whose answer may be too large, before it fails."""

BACKOFF = Backoff(0.05, 0.5)
"""Pauses between the attempts to send a small call alone."""

LOAD = 'SCRIPT LOAD'

BULK, QUERY = b'proto-max-bulk-len', b'client-query-buffer-limit'
OUTPUT = b'client-output-buffer-limit'

Attempt: TypeAlias = Callable[[Batch], Awaitable[Sequence[Reply]]]
Pause: TypeAlias = Callable[[float], Awaitable[object]]
"""Sleeps for some seconds."""
Policy: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Calls a function again after errors, as often as the client's settings allow."""


class PoolFullError(TorrelqueConnectionError):
    """All connections of the client's pool were in use for too long. Nothing was sent."""


def demoted(replies: Sequence[Reply]) -> bool:
    """Return whether a server answered that it is a replica. A new connection may lead to the primary."""
    return any(map(is_demoted, replies))


def refused_as_too_large(replies: Sequence[Reply]) -> bool:
    """Return whether the server refused a value as too large. It does so before it closes the connection."""
    return any(isinstance(reply, TorrelqueReplyError) and 'Protocol error: invalid' in str(reply) for reply in replies)


def to_repeat(batch: Batch, places: Sequence[int], wanted: Collection[int]) -> list[int]:
    """Return the indices of the calls to send again: those ``wanted``, and the SCRIPT LOADs before them.

    A call may now run on another server, which must know its script.

    Args:
        batch: All calls.
        places: Indices of the calls that were sent last.
        wanted: Indices of the calls that have to be repeated.
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
    """Send a batch. If its connection breaks, send it again once, and then as often as the client's policy allows.

    It is also sent again if the server answers that it is now a replica:
    ``attempt`` has then dropped its connections, and a new one may lead to the
    primary. Calls that are large, or with which two connections broke, are sent
    alone. If one breaks its connection every time although the server answers
    other calls, its reply is a TorrelqueTooLargeError.

    Args:
        batch: The calls, which are safe to repeat.
        attempt: Sends calls once.
        policy: The client's retry policy.
        together: Always send all calls together.
        pause: Sleeps for some seconds.

    Raises:
        TorrelqueConnectionError: The error of the last attempt; at once if
            trying again cannot help.
        TorrelqueTooLargeError: The calls are sent ``together``, and one is too large.
    """
    try:
        replies = await attempt(batch)
        if not demoted(replies) and not refused_as_too_large(replies):
            return replies
        suspicious = refused_as_too_large(replies)
    except TorrelqueConnectionError as error:
        if _is_permanent(error):
            raise
        suspicious = not isinstance(error, TorrelqueResponseTimeout)
    repeater = _Repeater(attempt, policy, pause)
    if suspicious and sum(map(size_of, batch)) >= LARGE:
        return await repeater.separately(batch, together=together, suspects=_is_large)
    try:
        return await repeater.by_policy(batch, until_cut=True)
    except TorrelqueConnectionError as error:
        if not _is_cut(error):
            raise
    try:
        return await repeater.separately(batch, together=together, suspects=lambda _: True)
    except TorrelqueConnectionError as error:  # the calls are not the cause
        if _is_permanent(error):
            raise
        return await repeater.by_policy(batch)


def _is_permanent(error: TorrelqueConnectionError) -> bool:
    return isinstance(error, TorrelqueHandshakeError | PoolFullError)


def _is_large(call: Call[Any]) -> bool:
    return size_of(call) >= LARGE


class _Repeater:
    """Sends calls again after their connection broke. See `repeat`."""

    def __init__(self, attempt: Attempt, policy: Policy, pause: Pause) -> None:
        self._attempt = attempt
        self._policy = policy
        self._pause = pause

    async def by_policy(self, batch: Batch, *, until_cut: bool = False) -> Sequence[Reply]:
        async def once() -> Sequence[Reply] | TorrelqueConnectionError:
            try:
                return await self._attempt(batch)
            except TorrelqueConnectionError as error:
                if _is_permanent(error) or (until_cut and _is_cut(error)):  # the policy would try again
                    return error
                raise

        outcome: Sequence[Reply] | TorrelqueConnectionError = await self._policy(once)
        if isinstance(outcome, TorrelqueConnectionError):
            raise outcome
        return outcome

    async def separately(
        self, batch: Batch, *, together: bool, suspects: Callable[[Call[Any]], bool]
    ) -> Sequence[Reply]:
        """Send each call alone, or all of them ``together``."""
        if together:
            return await self._suspected(batch)
        return [await self._alone(call) if suspects(call) else (await self.by_policy((call,)))[0] for call in batch]

    async def _alone(self, call: Call[Any]) -> Reply:
        try:
            return (await self._suspected((call,)))[0]
        except TorrelqueTooLargeError as error:
            return error

    async def _suspected(self, batch: Batch) -> Sequence[Reply]:
        """Send calls a few times. Raises TorrelqueTooLargeError if the server only answers other calls."""
        cause: Exception | None = None
        large = any(map(_is_large, batch)) or sum(map(size_of, batch)) >= LARGE
        for failures in range(TRIES_ALONE if large else TRIES_OF_ANSWER):
            if failures and not large:
                await self._pause(BACKOFF.pause(failures, random.random))
            try:
                replies = await self._attempt(batch)
            except TorrelqueConnectionError as error:
                if _is_permanent(error) or isinstance(error, TorrelqueResponseTimeout) or not (large or _is_cut(error)):
                    raise
                cause = error
            else:
                if not refused_as_too_large(replies):
                    return replies
        raise await self._too_large(batch) from cause

    async def _too_large(self, batch: Batch) -> TorrelqueTooLargeError:
        """Return the error to raise. Raises TorrelqueConnectionError if the server does not answer at all."""
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
        """Return the server's limits. Those that the user may not read are empty."""
        calls = [Call[Reply]('CONFIG GET', args=(name,), near=batch[0].routing_key) for name in (BULK, QUERY, OUTPUT)]
        try:
            replies = await self._attempt(calls)
        except TorrelqueConnectionError as error:
            if _is_permanent(error):
                raise
            replies = await self.by_policy(calls)
        return [reply[1].decode() if isinstance(reply, list) and len(reply) > 1 else '' for reply in replies]
