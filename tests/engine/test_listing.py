"""Items read page by page, in each of several places."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from torrelque.engine.listing import Listing

pytestmark = pytest.mark.anyio

Pages = dict[str, list[list[int]]]


class Shelf:
    """Counts the pages that are read."""

    def __init__(self, **places: list[list[int]]) -> None:
        self.places: Pages = places
        self.read: list[tuple[str, bytes]] = []

    async def find(self) -> Sequence[str]:
        return list(self.places)

    async def page(self, place: str, cursor: bytes) -> tuple[bytes, list[int]]:
        self.read.append((place, cursor))
        number, pages = int(cursor), self.places[place]
        return (b'%d' % (number + 1) if number + 1 < len(pages) else b'0'), pages[number]

    def listing(self) -> Listing[str, int]:
        return Listing(self.find, self.page)


async def test_all_places_page_by_page() -> None:
    shelf = Shelf(a=[[1, 2], [], [3]], b=[[]], c=[[4]])
    assert [item async for item in shelf.listing()] == [1, 2, 3, 4]
    assert shelf.read == [('a', b'0'), ('a', b'1'), ('a', b'2'), ('b', b'0'), ('c', b'0')]


async def test_nothing_is_read_before_it_is_wanted() -> None:
    shelf = Shelf(a=[[1, 2], [3]])
    listing = shelf.listing()
    assert shelf.read == []
    assert [await anext(listing), await anext(listing)] == [1, 2]
    assert len(shelf.read) == 1
    assert await anext(listing) == 3


async def test_no_places() -> None:
    assert [item async for item in Shelf().listing()] == []


async def test_closing() -> None:
    listing = Shelf(a=[[1, 2], [3]]).listing()
    await anext(listing)
    await listing.aclose()
    await listing.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(listing)


async def test_a_page_that_fails_may_be_asked_for_again() -> None:
    shelf = Shelf(a=[[1], [2]])
    listing = shelf.listing()
    assert await anext(listing) == 1
    pages = shelf.places.pop('a')
    with pytest.raises(KeyError):
        await anext(listing)
    shelf.places['a'] = pages
    assert await anext(listing) == 2
