"""Receives the signals that stop workers, once for the whole process.

Each signal reaches all workers, on all event loops. The handlers are installed while at
least one worker runs; then the previous ones are restored. A child that is forked meanwhile, for
example by ``multiprocessing``, gets the previous handlers, and not the socket that wakes the
parent's event loop.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ('HANG_UP', 'STOPPING', 'received')

STOPPING: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP') if hasattr(signal, name)
)
"""The signals that stop workers."""

HANG_UP: int | None = getattr(signal, 'SIGHUP', None)
"""Terminals and service managers send it together with other signals, so as a second signal it does not count."""

IGNORABLE = [getattr(signal, name) for name in ('SIGHUP', 'SIGQUIT') if hasattr(signal, name)]
"""Signals that stay ignored if they were, as under ``nohup``."""

Receiver = Callable[[int], object]

_receivers: dict[object, Receiver] = {}
_former: dict[signal.Signals, Any] = {}
"""The previous handler of each signal, while there are receivers."""


@contextmanager
def received(receiver: Receiver) -> Iterator[None]:
    """Within this context, call a function from the signal handler for each signal that stops workers."""
    key = object()
    if not _receivers:
        _install()
    _receivers[key] = receiver
    try:
        yield
    finally:
        _receivers.pop(key, None)  # a forked child has none
        if not _receivers:
            _restore()


def _install() -> None:
    for number in STOPPING:
        former = signal.getsignal(number)
        if former is not None and not (number in IGNORABLE and former is signal.SIG_IGN):  # None is not Python's
            _former[number] = former
            signal.signal(number, _handle)


def _restore() -> None:
    while _former:
        number, former = _former.popitem()
        if signal.getsignal(number) is _handle:  # otherwise the program has replaced it
            signal.signal(number, former)


def _handle(number: int, _frame: FrameType | None) -> None:
    for receiver in list(_receivers.values()):
        receiver(number)


# Children -------------------------------------------------------------------------------------------------------------
# Signals are blocked until the child has its own handlers, because signals that arrive earlier would be lost.


def _before_fork() -> None:
    if _former:
        _masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _former)


def _after_fork_in_parent() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    if _former:
        _receivers.clear()
        _restore()
        signal.set_wakeup_fd(-1)
    _after_fork_in_parent()
    _masks.clear()


_masks: dict[int, set[Any]] = {}
"""The signals that were blocked before the fork, for each thread that forks."""

if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
