"""Checks of functions that users pass, before they are called."""

from __future__ import annotations

import inspect
from typing import Any

from torrelque.errors import TorrelqueTypeError

__all__ = ('check_callable', 'check_function', 'check_plain_function', 'is_coroutine_function')


def is_coroutine_function(function: Any) -> bool:  # noqa: ANN401 - the type is what is checked
    """Return whether calling the function returns a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def check_callable(name: str, value: Any) -> Any:  # noqa: ANN401 - the type is what is checked
    """Return a callable. Raises TorrelqueTypeError for anything else, and for a generator function."""
    if not callable(value):
        raise TorrelqueTypeError(f'{name} must be a function, got {value!r}')
    if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):  # calling it would not run its body
        raise TorrelqueTypeError(f'{name} must not be a generator function, got {value!r}')
    return value


def check_function(name: str, value: Any, *parameters: str, dependencies: bool = False) -> Any:  # noqa: ANN401 - the type is what is checked
    """Return a callable.

    Args:
        name: Of the argument.
        value: What the user gave.
        parameters: What it is called with, by position.
        dependencies: Whether it may also have keyword-only parameters.

    Raises:
        TorrelqueTypeError: `check_callable` refuses it, or it cannot be called like this. A callable whose signature
            cannot be read passes.
    """
    _check_signature(name, check_callable(name, value), parameters, dependencies=dependencies)
    return value


def check_plain_function(name: str, value: Any, *parameters: str) -> Any:  # noqa: ANN401 - the type is what is checked
    """Return a callable. Raises TorrelqueTypeError as `check_function` does, and for a coroutine function."""
    if is_coroutine_function(check_callable(name, value)):
        raise TorrelqueTypeError(f'{name} must be a plain function, got a coroutine function: {value!r}')
    return check_function(name, value, *parameters)


def _check_signature(name: str, value: Any, parameters: tuple[str, ...], *, dependencies: bool) -> None:  # noqa: ANN401
    try:  # a wrapper is called itself, so its own parameters count
        signature = inspect.signature(value, follow_wrapped=False)
    except Exception:  # noqa: BLE001 - a builtin, or a class that does not let itself be inspected
        return
    named = {
        each.name: None
        for each in signature.parameters.values()
        if dependencies and each.kind is each.KEYWORD_ONLY and each.default is each.empty
    }
    try:
        signature.bind(*parameters, **named)
    except TypeError:
        raise TorrelqueTypeError(
            f'{name} must be callable with ({", ".join(parameters)}), got {value!r} with parameters {signature}'
        ) from None
