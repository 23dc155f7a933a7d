"""Clients of a queue over shards whose slots move."""

from __future__ import annotations

from collections.abc import Hashable

from tests.simulation.moving import MovingSlots, tag_of
from tests.simulation.patience import PatientClient
from tests.simulation.shards import ShardedClient
from torrelque.core.sharding.session import ShardedSession

__all__ = ('PatientShardedClient',)


class PatientShardedClient(PatientClient, ShardedClient):
    """Believes slots to be where they were when it was last told that one was not."""

    @property
    def at_once(self) -> bool:
        return False

    def make_session(self, nonce: str) -> ShardedSession:
        session = super().make_session(nonce)
        assert isinstance(session, ShardedSession)
        return session

    def refused(self) -> None:
        nodes = self.world.nodes
        assert isinstance(nodes, MovingSlots)
        self._map = nodes.map()

    def node_of(self, key: bytes) -> Hashable:
        if not hasattr(self, '_map'):
            self.refused()
        return self._map.get(tag_of(key))
