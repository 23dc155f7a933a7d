"""The complete suite of the queue over a transport."""

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
    """Tests every call with its errors, fencing, watching, many callers, and cancellation at any moment."""
