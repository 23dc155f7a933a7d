"""Imports objects from the user's modules, named on the command line."""

from __future__ import annotations

import importlib
import os
import sys
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from torrelque.cli.errors import DEBUG, Refusal
from torrelque.cli.exit_codes import Exit

__all__ = ('find_shadows', 'load')


def load(name: str, what: str) -> Any:  # noqa: ANN401 - whatever has that name
    """Import ``module:object`` or ``module``. Like ``python -m``, search the working folder first.

    Raises Refusal with the error in the module if the import fails.
    """
    module_name, colon, path = name.partition(':')
    if not module_name or (colon and not path):
        raise Refusal(f'{what} must be given as module:object, got {name!r}', Exit.USAGE)
    folder = os.getcwd()  # noqa: PTH109 - entries of sys.path are strings
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if os.environ.get(DEBUG):
            raise
        raise Refusal(
            f'cannot import {module_name!r}: {_reason(error)}{_location(error)}{_hint(folder)} '
            f'(set {DEBUG}=1 to see the traceback)',
            Exit.USAGE,
        ) from error
    try:
        return reduce(getattr, path.split('.'), module) if colon else module
    except AttributeError as error:
        raise Refusal(f'cannot find {what}: {error}{_hint_of_hidden(module, folder)}', Exit.USAGE) from None


def find_shadows(folder: str) -> list[Path]:
    """Return the modules in a folder that were imported instead of the standard library's."""
    imported = (getattr(sys.modules.get(name), '__file__', None) for name in sys.stdlib_module_names)
    return sorted(_shown(Path(file)) for file in imported if file and Path(file).is_relative_to(folder))


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f'it called sys.exit({"" if error.code is None else repr(error.code)})'
    return f'{type(error).__name__}: {error}'


def _hint(folder: str) -> str:
    """Describe modules that are the likely cause of the error."""
    shadows = ', '.join(f"{path} hides the standard library's {path.stem}" for path in find_shadows(folder))
    return f'; {shadows}: rename it' if shadows else ''


def _hint_of_hidden(module: ModuleType, folder: str) -> str:
    """Describe a user's module that the standard library hides."""
    name = module.__name__.partition('.')[0]
    hidden = [path for path in (Path(folder, f'{name}.py'), Path(folder, name, '__init__.py')) if path.exists()]
    if name not in sys.stdlib_module_names or not hidden or Path(module.__file__ or '').is_relative_to(folder):
        return ''
    return f"; the standard library's {name} hides {_shown(hidden[0])}: rename it"


def _shown(path: Path) -> Path:
    return path.parent if path.name == '__init__.py' else path


def _location(error: BaseException) -> str:
    """Return where the error was raised; empty if that was in the import machinery."""
    trace = error.__traceback__
    last = None
    while trace is not None:
        if 'importlib' not in trace.tb_frame.f_code.co_filename:
            last = trace
        trace = trace.tb_next
    if last is None or last.tb_frame.f_code.co_filename == __file__:
        return ''
    return f' ({last.tb_frame.f_code.co_filename}, line {last.tb_lineno})'
