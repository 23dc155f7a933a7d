"""One item of a bulk call with arguments of its own; a bare value takes those of the call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torrelque.core.models import TorrelqueTaskStatus

__all__ = ('EnqueueItem', 'ReleaseItem', 'RequeueItem')


@dataclass(frozen=True, slots=True)
class EnqueueItem:
    """A task to enqueue; the fields mean what the parameters of ``Torrelque.enqueue`` mean."""

    task: Any
    task_timeout: float | None = None
    delay: float | None = None
    task_id: str | None = None
    max_dequeues: int | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class RequeueItem:
    """A claimed task to requeue, as by ``Torrelque.requeue``."""

    task: Any
    delay: float | None = None
    task_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class ReleaseItem:
    """A claimed task to release, as by ``Torrelque.release``."""

    task: Any
    result: Any = None
    result_ttl: float | None = None
    status: TorrelqueTaskStatus | None = TorrelqueTaskStatus.COMPLETED
