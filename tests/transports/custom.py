"""A connection of a class that is not redis-py's own, which only its pool knows how to use."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Connection


class OwnConnection(Connection):
    """Sends as usual, but might as well be a fake without a socket."""

    async def send_packed_command(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - redis-py's
        await super().send_packed_command(*args, **options)
