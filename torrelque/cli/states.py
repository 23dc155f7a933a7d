"""Formats task states for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from torrelque import (
    GroupCounts,
    Limits,
    Pause,
    Schedule,
    Torrelque,
    TorrelqueLookupError,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
)
from torrelque.cli.output import printable
from torrelque.cli.params import name_of
from torrelque.cli.payloads import show_bytes
from torrelque.cli.units import duration

__all__ = (
    'STYLES',
    'deliveries',
    'groups_text',
    'last_change',
    'limits_text',
    'notes',
    'pause_text',
    'progress',
    'read_task',
    'schedules_texts',
    'state_fields',
    'stats_fields',
)

STYLES = {
    TorrelqueTaskStatus.PENDING: '',
    TorrelqueTaskStatus.WORKING: 'yellow',
    TorrelqueTaskStatus.DELAYED: 'blue',
    TorrelqueTaskStatus.COMPLETED: 'green',
    TorrelqueTaskStatus.REJECTED: 'red',
    TorrelqueTaskStatus.EXPIRED: 'dim',
}


def state_fields(task_id: str, state: TorrelqueTaskState) -> dict[str, Any]:
    """Return a state as a JSON object: its fields, the name of its status, and the encoding of the result."""
    fields = {'id': task_id, **state._asdict(), 'status': name_of(state.status)}
    shown = None if state.result is None else show_bytes(state.result)
    fields['result'] = shown and shown.value
    fields['result_encoding'] = shown and shown.encoding
    fields['progress'] = state.progress and state.progress._asdict()
    return fields


def stats_fields(queue: str, stats: TorrelqueQueueStats) -> dict[str, Any]:
    """Return statistics as a JSON object."""
    paused = None if stats.paused is None else stats.paused._asdict()
    limits = None if stats.limits is None else stats.limits._asdict()
    groups = None if stats.groups is None else stats.groups._asdict()
    return {'queue': queue, **stats._asdict(), 'paused': paused, 'limits': limits, 'groups': groups}


def pause_text(pause: Pause) -> str:
    """Describe a pause briefly: its reason, and when it ends."""
    end = '' if pause.until is None else f'until {datetime.fromtimestamp(pause.until).astimezone():%Y-%m-%d %H:%M:%S}'
    return f'paused {end}'.rstrip() + (f': {printable(pause.reason)}' if pause.reason else '')


def limits_text(limits: Limits | None) -> str:
    """Describe limits briefly; '' if there are none."""
    limits = limits or Limits()
    parts = [] if limits.concurrency is None else [f'{limits.concurrency:,} at once']
    if limits.rate is not None:
        count, seconds = limits.rate
        burst = '' if limits.burst == count else f' in bursts of {limits.burst:,}'
        parts.append(f'{count:,} per {seconds:g} s{burst}')
    texts = [f'at most {", ".join(parts)}' if parts else '']
    texts += ['one at a time, in order'] if limits.ordered else []
    texts += [] if limits.weight is None else [f'weight {limits.weight:,}']
    texts += ['held by dead letters'] if limits.dead == 'hold' else []
    texts += ['priorities are strict'] if limits.strict else []
    return '; '.join(filter(None, texts))


def groups_text(groups: GroupCounts | None, title: str = 'groups') -> str:
    """Describe how many groups have waiting tasks; '' if none has."""
    if groups is None:
        return ''
    counts = ', '.join(f'{count:,} {state}' for state, count in groups._asdict().items() if count)
    return f'{title}: {counts}'


SHOWN = 3
"""Maximum number of silent schedules to name."""

LATE = 10.0
"""Seconds after which a schedule that has not fired counts as silent."""


def schedules_texts(schedules: Sequence[Schedule], now: float, *, is_paused: bool = False) -> tuple[str, str]:
    """Describe schedules briefly: how many there are and which fires next, and which are silent; '' for none."""
    if not schedules:
        return '', ''
    plural = 's' if len(schedules) > 1 else ''
    known = f'{len(schedules):,} schedule{plural}'
    if is_paused:
        return f'{known}, paused', ''
    coming = min(((each.next, each.id) for each in schedules if each.next and each.next >= now), default=None)
    if coming is not None:
        known += f', {printable(coming[1])} in {duration(coming[0] - now)}'
    silent = sorted(each.id for each in schedules if each.next is None or each.next < now - LATE)
    more = ', ...' if len(silent) > SHOWN else ''
    return known, f'silent: {", ".join(map(printable, silent[:SHOWN]))}{more}' if silent else ''


def notes(stats: TorrelqueQueueStats) -> str:
    """Describe what keeps tasks from consumers: a pause, limits, and groups."""
    paused = '' if stats.paused is None else pause_text(stats.paused)
    return '; '.join(filter(None, (paused, limits_text(stats.limits), groups_text(stats.groups))))


def last_change(state: TorrelqueTaskState) -> float | None:
    """Return the time of the last known change: the latest time in the state."""
    times = (state.enqueue_time, state.last_dequeue_time, state.last_requeue_time, state.release_time)
    return max((time for time in times if time is not None), default=None)


def deliveries(state: TorrelqueTaskState) -> str:
    """Return the number of deliveries, and the limit if there is one."""
    return f'{state.dequeue_count}' + (f'/{state.max_dequeues}' if state.max_dequeues else '')


def progress(state: TorrelqueTaskState) -> str:
    """Return how far a task has come, such as ``40/100 (40%) resizing``; empty if its consumer does not report."""
    known = state.progress
    if known is None:
        return ''
    share = '' if known.total is None else f'/{known.total:.10g} ({100 * known.value / known.total:.0f}%)'
    return f'{known.value:.10g}{share} {printable(known.note)}'.rstrip()


async def read_task(queue: Torrelque, task_id: str) -> TorrelqueTask:
    """Read a task that is queued or whose result is kept. In the latter case the payload is gone, and data is None.

    Raises TorrelqueLookupError for any other task.
    """
    try:
        return await queue.get_task(task_id)
    except TorrelqueLookupError:
        return TorrelqueTask(task_id, None, {}, await queue.get_task_state(task_id))
