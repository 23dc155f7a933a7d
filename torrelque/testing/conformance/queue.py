"""The queue over a transport, all of it."""

from __future__ import annotations

from torrelque.testing.conformance.claims import ClaimConformance
from torrelque.testing.conformance.consuming import ConsumingConformance
from torrelque.testing.conformance.crowds import CrowdConformance
from torrelque.testing.conformance.observing import ObservingConformance
from torrelque.testing.conformance.producing import ProducingConformance

__all__ = ('QueueConformance',)


class QueueConformance(
    ProducingConformance, ConsumingConformance, ClaimConformance, ObservingConformance, CrowdConformance
):
    """Every verb, its refusals, fencing, watching, many callers, cancellation at any moment."""
