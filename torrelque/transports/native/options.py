"""How to connect: the options that all parts of the native transport share."""

from __future__ import annotations

import inspect
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio

from torrelque.errors import TorrelqueConnectionError, TorrelqueTypeError, TorrelqueValueError

__all__ = ('LONGEST', 'CredentialSource', 'Credentials', 'Options')

logger: logging.Logger = logging.getLogger('torrelque')

LONGEST = 300.0
"""Maximum of each time-out, in seconds. A call must end long before the lane that guards its repeats expires."""

PAIR = 2

Credentials: TypeAlias = Callable[[], tuple[str | None, str] | Awaitable[tuple[str | None, str]]]
"""Returns a user (None for the server's default one) and a password for a new connection."""


class CredentialSource:
    """Calls the user's callback. If it raises an error, that counts as a failure to connect."""

    def __init__(self, callback: Credentials) -> None:
        self._callback = callback
        self._failing = False

    def __repr__(self) -> str:
        return f'<{type(self).__name__}>'

    async def get(self, timeout: float) -> tuple[str | None, str]:
        """Return the user and the password to use now. Raises TorrelqueConnectionError."""
        try:
            with anyio.fail_after(timeout):
                given = self._callback()
                pair = await given if inspect.isawaitable(given) else given
            credentials = _checked(pair)
        except Exception as error:
            # Logged once until it works again. What it returned is not shown.
            if not self._failing:
                logger.warning('Cannot get credentials for new connections, trying again: %r', error)
            self._failing = True
            raise TorrelqueConnectionError(f'the credentials callback failed: {error!r}') from error
        self._failing = False
        return credentials


def _checked(pair: object) -> tuple[str | None, str]:
    if isinstance(pair, tuple) and len(pair) == PAIR:
        user, password = pair
        if isinstance(password, str) and (user is None or isinstance(user, str)):
            return user, password
    raise TorrelqueTypeError(f'expected a user (str or None) and a password (str), not {type(pair).__name__}')


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect, and how long to try. All times are in seconds."""

    ssl_context: ssl.SSLContext | None = None
    retry_timeout: float = 30.0
    connect_timeout: float = 5.0
    response_timeout: float = 8.0
    credentials: CredentialSource | None = field(default=None)

    def __post_init__(self) -> None:
        _check_seconds('retry_timeout', self.retry_timeout, zero=True)
        _check_seconds('connect_timeout', self.connect_timeout)
        _check_seconds('response_timeout', self.response_timeout)


def _check_seconds(name: str, value: float, *, zero: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TorrelqueTypeError(f'{name}: expected a number of seconds, not {value!r}')
    if not (value >= 0 if zero else value > 0) or value > LONGEST:
        raise TorrelqueValueError(
            f'{name}: expected seconds {"from" if zero else "above"} 0 up to {LONGEST:g}, not {value!r}'
        )
