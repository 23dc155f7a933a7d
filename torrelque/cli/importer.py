"""Objects of the user's own modules, named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from functools import reduce
from typing import Any

from torrelque.cli.errors import DEBUG, Refusal
from torrelque.cli.exit_codes import Exit

__all__ = ('load',)


def load(name: str, what: str) -> Any:  # noqa: ANN401 - whatever has that name
    """What ``module:object`` names, or ``module``; the working folder is searched first, as ``python -m`` does.

    Raises Refusal, saying what went wrong in the module, if it cannot be had.
    """
    module_name, colon, path = name.partition(':')
    if not module_name or (colon and not path):
        raise Refusal(f'{what} is named as module:object, got {name!r}', Exit.USAGE)
    folder = os.getcwd()  # noqa: PTH109 - entries of sys.path are strings
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        raise Refusal(
            f'cannot import {module_name!r}: {type(error).__name__}: {error}{_place(error)} '
            f'(set {DEBUG}=1 to see the traceback)',
            Exit.USAGE,
        ) from error
    try:
        return reduce(getattr, path.split('.'), module) if colon else module
    except AttributeError as error:
        raise Refusal(f'{what} is not there: {error}', Exit.USAGE) from None


def _place(error: Exception) -> str:
    """Where it was raised, unless that was in the machinery of imports."""
    trace = error.__traceback__
    last = None
    while trace is not None:
        if 'importlib' not in trace.tb_frame.f_code.co_filename:
            last = trace
        trace = trace.tb_next
    if last is None or last.tb_frame.f_code.co_filename == __file__:
        return ''
    return f' ({last.tb_frame.f_code.co_filename}, line {last.tb_lineno})'
