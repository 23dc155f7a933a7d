"""Iterates over items that are read page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Generic, TypeVar

__all__ = ('Listing',)

P = TypeVar('P')
T = TypeVar('T')


class Listing(AsyncIterator[T], Generic[P, T]):
    """An iterator over items that are read page by page, from one source after the other.

    Not an asynchronous generator, because Trio warns about those that are not exhausted.
    You can drop this iterator at any point.

    Args:
        sources: Returns the sources, such as the nodes of a cluster.
        page: Reads one page of a source, from a cursor that begins and ends with b'0'; returns
            the next cursor and the items.
    """

    def __init__(
        self,
        sources: Callable[[], Awaitable[Iterable[P]]],
        page: Callable[[P, bytes], Awaitable[tuple[bytes, Iterable[T]]]],
    ) -> None:
        self._find_sources = sources
        self._page = page
        self._sources: deque[P] | None = None
        self._cursor = b'0'
        self._items: deque[T] = deque()

    async def __anext__(self) -> T:
        while not self._items:
            if self._sources is None:
                self._sources = deque(await self._find_sources())
            if not self._sources:
                raise StopAsyncIteration
            self._cursor, items = await self._page(self._sources[0], self._cursor)
            self._items.extend(items)
            if self._cursor == b'0':
                self._sources.popleft()
        return self._items.popleft()

    async def aclose(self) -> None:
        """Stop reading. Safe to repeat."""
        self._sources = deque()
        self._items.clear()
