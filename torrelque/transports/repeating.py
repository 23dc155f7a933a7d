"""Repeats calls whose connection broke. Calls that may have broken it are sent alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias

from torrelque.core.protocol import Batch, Call, Reply
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueHandshakeError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
    is_demoted,
)

__all__ = ('LARGE', 'Policy', 'PoolFullError', 'demoted', 'refused_as_too_large', 'repeat', 'to_repeat')

LARGE = 512 * 1024
"""Bytes from which a call may be too large: servers' limits cannot be set below a mebibyte."""

WORD = 16
"""Maximum overhead of a word on the wire, in bytes."""

TRIES_ALONE = 2
"""How many times a large call is sent alone before it fails."""

LOAD = 'SCRIPT LOAD'

BULK, QUERY = b'proto-max-bulk-len', b'client-query-buffer-limit'
SETTINGS: tuple[Call[Reply], ...] = (Call('CONFIG GET', args=(BULK,)), Call('CONFIG GET', args=(QUERY,)))

Attempt: TypeAlias = Callable[[Batch], Awaitable[Sequence[Reply]]]
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


async def repeat(batch: Batch, attempt: Attempt, policy: Policy, *, together: bool = False) -> Sequence[Reply]:
    """Send a batch; if its connection breaks, send it again, and then as often as the client's policy says.

    It is also sent again if a server answers that it is a replica now:
    ``attempt`` has dropped its connections then, and the next may lead to
    another server. After a failure, large calls are sent alone: if one breaks
    its connection again and again, though the server answers others, its reply
    is a TorrelqueTooLargeError.

    Args:
        batch: The calls, which are safe to repeat.
        attempt: Sends calls once.
        policy: Calls a function as often as the client's settings say.
        together: Always send the calls together.

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
    if not suspicious or sum(map(size_of, batch)) < LARGE:
        return await _by_policy(batch, attempt, policy)
    if together:
        return await _try_large(batch, attempt, policy)
    return [await _alone(call, attempt, policy) for call in batch]


def _lasts(error: TorrelqueConnectionError) -> bool:
    return isinstance(error, TorrelqueHandshakeError | PoolFullError)


async def _by_policy(batch: Batch, attempt: Attempt, policy: Policy) -> Sequence[Reply]:
    async def once() -> Sequence[Reply] | TorrelqueConnectionError:
        try:
            return await attempt(batch)
        except TorrelqueConnectionError as error:
            if _lasts(error):  # returned, as the policy would try again
                return error
            raise

    outcome: Sequence[Reply] | TorrelqueConnectionError = await policy(once)
    if isinstance(outcome, TorrelqueConnectionError):
        raise outcome
    return outcome


async def _alone(call: Call[Any], attempt: Attempt, policy: Policy) -> Reply:
    if size_of(call) < LARGE:
        return (await _by_policy((call,), attempt, policy))[0]
    try:
        return (await _try_large((call,), attempt, policy))[0]
    except TorrelqueTooLargeError as error:
        return error


async def _try_large(batch: Batch, attempt: Attempt, policy: Policy) -> Sequence[Reply]:
    """Send calls again, a few times. Raises TorrelqueTooLargeError if the server answers only other calls."""
    cause: Exception | None = None
    for _ in range(TRIES_ALONE):
        try:
            replies = await attempt(batch)
        except TorrelqueConnectionError as error:
            if _lasts(error) or isinstance(error, TorrelqueResponseTimeout):
                raise
            cause = error
        else:
            if not refused_as_too_large(replies):
                return replies
    # If the server is away altogether, this raises.
    settings = [Call[Reply](each.command, args=each.args, near=batch[0].routing_key) for each in SETTINGS]
    bulk, query = [_number(reply) for reply in await repeat(settings, attempt, policy)]
    words = [word for call in batch for word in call.words()]
    size = sum(map(size_of, batch))
    longest = max(len(word) for word in words if not isinstance(word, int))
    limits, limit = f'see {BULK.decode()} and {QUERY.decode()}, or the limits of a proxy', None
    for name, most, actual in ((BULK, bulk, longest), (QUERY, query, size + len(words) * WORD)):
        if limit is None and most is not None and actual > most:
            limits, limit = f'its limit is {most:,} bytes ({name.decode()})', most
    message = f'the server closes the connection over a call of {size:,} bytes: {limits}'
    raise TorrelqueTooLargeError(message, size, limit) from cause


def _number(reply: Reply) -> int | None:
    """Return a setting; None if the user may not read it."""
    return int(reply[1]) if isinstance(reply, list) and len(reply) > 1 else None
