"""Parses command-line values: durations, headers, task ids and statuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from torrelque import TorrelqueTaskStatus
from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.output import errors

__all__ = (
    'TIME', 'Choice', 'DelayOption', 'ExpiresInOption', 'GroupOption', 'HeaderOption', 'IdsArgument',
    'MaxDequeuesOption', 'OnExpiryOption', 'PriorityOption', 'Status', 'TaskTimeoutOption', 'TimeLimitOption',
    'confirm', 'name_of', 'parse_headers', 'parse_of_queues', 'parse_rate', 'parse_time', 'read_ids',
    'time_option',
)  # fmt: skip

N = TypeVar('N', int, float)

SECONDS: dict[str, float] = {'ms': 0.001, '': 1, 's': 1, 'm': 60, 'h': 3600, 'd': 86_400}

TIME = 'TIME'
"""Name of `parse_time`'s argument in help texts."""


class Status(StrEnum):
    """A task's status as typed by the user."""

    PENDING = 'pending'
    WORKING = 'working'
    DELAYED = 'delayed'
    COMPLETED = 'completed'
    REJECTED = 'rejected'
    EXPIRED = 'expired'

    @property
    def meant(self) -> TorrelqueTaskStatus:
        return TorrelqueTaskStatus[self.name]


class Choice(StrEnum):
    """A word that the library takes as it is typed, and that its errors show as such."""

    def __repr__(self) -> str:
        return repr(self.value)


class Priority(Choice):
    """Values of ``priority`` in `Torrelque.enqueue`."""

    HIGH = 'high'
    NORMAL = 'normal'
    LOW = 'low'


class OnExpiry(Choice):
    """Values of ``on_expiry`` in `Torrelque.enqueue`."""

    DROP = 'drop'
    REJECT = 'reject'


def name_of(status: TorrelqueTaskStatus) -> str:
    """Return a status as it is printed."""
    return status.name.lower()


def parse_time(text: str | float) -> float:
    """Parse a duration such as ``90``, ``1.5s``, ``200ms``, ``10m``, ``2h30m`` or ``7d`` into seconds."""
    words = re.findall(r'(\d+(?:\.\d+)?)(ms|[smhd]|\Z)', str(text))
    if not words or ''.join(map(''.join, words)) != str(text):
        raise typer.BadParameter(f'{text!r} is not a time such as 90, 1.5s, 10m, 2h30m or 7d')
    return sum(float(number) * SECONDS[unit] for number, unit in words)


def parse_rate(text: str) -> tuple[int, float]:
    """Parse a rate such as ``100/1m`` or ``5/s`` into a number and seconds. Raises Refusal."""
    number, slash, time = text.partition('/')
    if not (slash and number.isdecimal()):
        raise Refusal(f'--rate expects N/TIME such as 100/1m or 5/s, got {text!r}', Exit.USAGE)
    return int(number), parse_time(f'1{time}' if time.isalpha() else time)


def parse_headers(words: Sequence[str]) -> dict[str, str]:
    """Parse headers of the form ``name=value``. Raises Refusal."""
    headers = {}
    for word in words:
        name, equals, value = word.partition('=')
        if not (name and equals):
            raise Refusal(f'--header expects NAME=VALUE, got {word!r}', Exit.USAGE)
        headers[name] = value
    return headers


def parse_of_queues(
    option: str, words: Sequence[str], queues: Sequence[str], number: Callable[[str], N]
) -> dict[str, N]:
    """Parse numbers of the form ``queue=number``. Raises Refusal."""
    numbers: dict[str, N] = {}
    for word in words:
        name, _, value = word.rpartition('=')
        try:
            numbers[name] = number(value)
        except ValueError:
            name = ''
        if not name:
            raise Refusal(f'{option} expects QUEUE=N, got {word!r}', Exit.USAGE)
        if name not in queues:
            raise Refusal(f'{option} names queue {name!r}, which no --queue names', Exit.USAGE)
    return numbers


IdsArgument = Annotated[
    list[str], typer.Argument(metavar='ID', show_default=False, help='Task ids; - reads them from standard input.')
]


def time_option(text: str, *names: str) -> Any:  # noqa: ANN401 - as `typer.Option`
    """Return an optional parameter that is a time, with its help text."""
    return typer.Option(*names, metavar=TIME, parser=parse_time, show_default=False, help=text)


DelayOption = Annotated[float | None, time_option('Deliver the task after this time, such as 90s.')]
TimeLimitOption = Annotated[
    float | None, time_option("How long a worker's handler may take for the task. Defaults to the worker's limit.")
]
ExpiresInOption = Annotated[float | None, time_option('Drop the task if no consumer has started it after this time.')]
OnExpiryOption = Annotated[
    OnExpiry | None,
    typer.Option(show_default=False, help='What to do with an expired task. Defaults to drop.'),
]
GroupOption = Annotated[
    str | None,
    typer.Option('--group', '-g', metavar='NAME', show_default=False, help='The group that the task belongs to.'),
]
PriorityOption = Annotated[
    Priority | None,
    typer.Option(show_default=False, help='The priority of a task without a group. Defaults to normal.'),
]
TaskTimeoutOption = Annotated[
    float | None,
    time_option('How long a consumer may work on a task before it is redelivered. Defaults to 5m.', '--task-timeout'),
]
MaxDequeuesOption = Annotated[
    int | None,
    typer.Option(
        '--max-dequeues', min=1, metavar='N', show_default=False, help='Make a task a dead letter after N deliveries.'
    ),
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option('--header', '-H', metavar='NAME=VALUE', show_default=False, help='A header; repeatable.'),
]


def read_ids(words: Sequence[str]) -> list[str]:
    """Return the ids in order, each once. ``-`` stands for those on standard input, one per line."""
    ids: dict[str, None] = {}
    for word in words:
        given = [line.strip() for line in sys.stdin] if word == '-' else [word]
        ids.update(dict.fromkeys(task_id for task_id in given if task_id))
    return list(ids)


def confirm(question: str) -> None:
    """Ask for confirmation. Raises Refusal unless the answer is yes."""
    errors().print(f'{question} [y/N] ', end='')
    answer = sys.stdin.readline()
    if not answer:
        raise Refusal('no answer on standard input: add --yes, or answer y', Exit.USAGE)
    if answer.strip().lower() not in ('y', 'yes'):
        raise Refusal('nothing was deleted')
