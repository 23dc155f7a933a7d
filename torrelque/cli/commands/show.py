"""Commands that show or watch one task."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import anyio
import typer
from rich.table import Table
from rich.text import Text

from torrelque import TorrelqueTask, TorrelqueTaskState, TorrelqueTaskStatus
from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.output import console, print_json, printable
from torrelque.cli.params import name_of, time_option
from torrelque.cli.payloads import preview, render, show_bytes
from torrelque.cli.presence import Holders, try_workers
from torrelque.cli.settings import Settings
from torrelque.cli.states import STYLES, deliveries, last_change, progress, read_task, state_fields
from torrelque.cli.units import age

__all__ = ('show', 'watch')

IdArgument = Annotated[str, typer.Argument(metavar='ID', show_default=False, help='The task.')]


# show ----------------------------------------------------------------------------------------------------------------


async def show(
    settings: Settings,
    task_id: IdArgument,
    *,
    raw: Annotated[bool, typer.Option('--raw', help='Print only the payload, byte for byte.')] = False,
) -> None:
    """Show a task's state, history, payload and result.

    The payload and the result are shown as JSON or text where possible, and
    otherwise in hexadecimal.
    """
    async with settings.open_known_queue() as queue:
        now = await queue.get_server_time()
        task = await read_task(queue, task_id)
        holder = Holders(await try_workers(queue) if task.consumer else ()).of(task)
    if raw:
        if task.data is None:
            raise Refusal(f'task {task_id!r} has ended, so its payload is gone')
        sys.stdout.buffer.write(task.data)
        sys.stdout.flush()
    elif settings.json:
        print_json({**_fields(settings.queue, task), 'consumer': task.consumer, 'held_by': holder})
    else:
        _print(settings.queue, task, now, holder)


def _fields(queue: str, task: TorrelqueTask) -> dict[str, Any]:
    payload = None if task.data is None else show_bytes(task.data)
    return {
        'queue': queue,
        **state_fields(task.id, task.state),
        'deadline': task.deadline,
        'due': task.due,
        'headers': dict(task.headers),
        'payload': payload and payload.value,
        'payload_encoding': payload and payload.encoding,
    }


def _print(queue: str, task: TorrelqueTask, now: float, holder: str | None) -> None:
    out, state = console(), task.state
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style='dim', no_wrap=True)
    facts.add_column(overflow='fold')
    facts.add_row('task', printable(task.id))
    facts.add_row('queue', printable(queue))
    facts.add_row('status', Text(name_of(state.status), style=STYLES[state.status]))
    if holder is not None:
        facts.add_row('held by', printable(holder))
    for name, value in _line(state):
        facts.add_row(name, printable(value))
    if state.reason is not None:
        facts.add_row('reason', printable(state.reason))
    facts.add_row('tries', deliveries(state))
    if state.progress is not None:
        facts.add_row('progress', f'{progress(state)}, {age(now - state.progress.time)} ago')
    if state.expires is not None:
        facts.add_row('expires', f'{_local_time(state.expires)}{", to the dead letters" if state.on_expiry else ""}')
    facts.add_row('timeout', age(state.timeout))
    for name, value in task.headers.items():
        facts.add_row('header', f'{printable(name)}={printable(value)}')
    out.print(facts)
    history = Table.grid(padding=(0, 2))
    for moment, event in _history(task):
        when = f'in {age(moment - now)}' if moment > now else f'{age(now - moment)} ago'
        history.add_row('', _local_time(moment), Text(when, justify='right'), event)
    out.print('history', style='dim')
    out.print(history)
    for name, data in (('payload', task.data), ('result', state.result)):
        if data is not None:
            encoding, text = render(data)
            out.print(f'{name} ({encoding})', style='dim')
            out.print(Text('\n'.join(f'  {line}' for line in text.splitlines())), soft_wrap=True)


def _line(state: TorrelqueTaskState) -> list[tuple[str, str]]:
    """Return the group or the priority of a task, if it has one."""
    if state.group is not None:
        return [('group', state.group)]
    return [] if state.priority == 'normal' else [('priority', state.priority)]


def _history(task: TorrelqueTask) -> list[tuple[float, str]]:
    """Return the known past and future events of a task with their times."""
    state = task.state
    events = [
        (state.enqueue_time, 'enqueued'),
        (state.last_dequeue_time, f'delivered, {_times(state.dequeue_count)} in all'),
        (state.last_requeue_time, f'back in the queue, {_times(state.requeue_count)} in all'),
        (state.release_time, name_of(state.status)),
        (task.deadline, 'the claim ends unless it is renewed'),
        (task.due, 'due'),
    ]
    return sorted((moment, event) for moment, event in events if moment is not None)


def _times(count: int) -> str:
    return 'once' if count == 1 else f'{count} times'


def _local_time(moment: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(moment))


# watch ---------------------------------------------------------------------------------------------------------------


async def watch(
    settings: Settings,
    task_id: IdArgument,
    timeout: Annotated[float | None, time_option('Stop waiting after this time, with exit status 4.')] = None,
) -> int:
    """Print a task's status now and at each change, until it ends.

    The exit status is 0 if the task was completed, and 1 if it was rejected or
    cancelled.
    """
    seen: list[TorrelqueTaskState] = []
    ended: list[TorrelqueTaskState] = []
    async with settings.open_known_queue() as queue, anyio.create_task_group() as group:

        async def await_end() -> None:
            """Wait until the task ends. If `watch` ends without a final state, `wait` raises the reason."""
            ended.append(await queue.wait(task_id, timeout))

        group.start_soon(await_end)
        async for state in queue.watch(task_id, timeout=timeout):
            seen.append(state)
            _print_change(settings, task_id, state)
    if not seen[-1].status.isfinal():
        seen.append(ended[0])
        _print_change(settings, task_id, ended[0])
    return Exit.OK if seen[-1].status is TorrelqueTaskStatus.COMPLETED else Exit.NEGATIVE


def _print_change(settings: Settings, task_id: str, state: TorrelqueTaskState) -> None:
    if settings.json:
        print_json(state_fields(task_id, state))
        return
    moment = state.release_time if state.status.isfinal() else last_change(state)
    if state.progress is not None:
        moment = state.progress.time
    line = Text(f'{_local_time(moment or time.time())}  ')
    line.append(f'{name_of(state.status):9}', style=STYLES[state.status])
    notes = [
        f'tries: {deliveries(state)}' if state.dequeue_count else '', printable(state.reason or ''), progress(state)
    ]  # fmt: skip
    if state.result is not None:
        notes.append(f'result: {preview(state.result)}')
    line.append('  ' + ', '.join(filter(None, notes)))
    console().print(line, soft_wrap=True)
    sys.stdout.flush()
