"""The complete suite of the queue over a transport."""

from __future__ import annotations

from torrelque.testing.conformance.claims import ClaimConformance
from torrelque.testing.conformance.consuming import ConsumingConformance
from torrelque.testing.conformance.crowds import CrowdConformance
from torrelque.testing.conformance.grouping import GroupingConformance
from torrelque.testing.conformance.observing import ObservingConformance
from torrelque.testing.conformance.producing import ProducingConformance

__all__ = ('QueueConformance',)


class QueueConformance(
    ProducingConformance,
    ConsumingConformance,
    GroupingConformance,
    ClaimConformance,
    ObservingConformance,
    CrowdConformance,
):
    """Tests every call with its errors, fencing, groups, watching, many callers, and cancellation at any moment."""
