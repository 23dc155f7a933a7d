"""How a verb is made safe to repeat."""

from __future__ import annotations

from collections.abc import Callable

from torrelque.core.protocol import Reply
from torrelque.transports.memory.groups import place_touched
from torrelque.transports.memory.prelude import Command, Run

__all__ = ('laned',)


def laned(
    *, looks: bool = True, hints: bool = True, places: bool = True
) -> Callable[[Callable[[Run], bytes]], Command]:
    """A verb made safe to repeat by a lane. The body does it and answers a letter an item.

    ``looks``: it does not itself check the types of what it writes; ``hints``: it may make work for consumers.
    """

    def decorate(body: Callable[[Run], bytes]) -> Command:
        def verb(run: Run) -> Reply:
            seen = run.enter()
            if seen is not None:
                return run.again(*seen)
            run.check_features()
            if looks:
                run.look()
            answer = body(run)
            if places:
                place_touched(run)
            if hints:
                run.hint()
            return run.leave(answer)

        return verb

    return decorate
