"""A process that forks: the child has all that was in the parent's memory, and both go on."""

from __future__ import annotations

from copy import copy

from tests.simulation.clients import Client
from torrelque.core.session import Session

__all__ = ('fork', 'settle_in')


def fork(parent: Client, nonce: str) -> Client:
    """The client that the child has once it uses the queue object that it inherited; ``nonce``: as it would draw."""
    child = Client(parent.world, parent.nonce, parent.offset)
    child.session = _remembered(parent, child)
    child.held = dict(parent.held)
    settle_in(child, nonce)
    return child


def settle_in(child: Client, nonce: str) -> None:
    """As the engine does in a process that is not the one where its state was made: it makes new state."""
    child.nonce = nonce
    child.session = child.make_session(nonce)


def _remembered(parent: Client, child: Client) -> Session:
    """The parent's session as the child finds it, without what was under way: that goes on in the parent alone."""
    session, of_parent = child.make_session(parent.nonce), parent.session
    assert isinstance(session, Session)
    assert isinstance(of_parent, Session)
    lanes = of_parent._lanes
    session._lanes._free = [copy(lane) for lane in lanes._free]
    session._lanes._unsettled = list(lanes._unsettled)
    session._consumers._lane = copy(of_parent._consumers._lane)
    return session
