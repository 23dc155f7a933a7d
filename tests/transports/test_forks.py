"""A process knows that it was forked."""

from __future__ import annotations

import os

from torrelque.transports import forks


def test_a_child_counts_one_fork_more() -> None:
    before = forks.count
    child = os.fork()
    if child == 0:
        os._exit(forks.count - before)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert forks.count == before
