"""How error messages name an object that was passed by mistake."""

from __future__ import annotations

__all__ = ('class_name', 'named')


def class_name(value: object) -> str:
    return f'{type(value).__module__}.{type(value).__qualname__}'


def named(value: object) -> str:
    """Return the repr of a simple value, and the class of any other. A client's repr may contain a password."""
    return repr(value) if value is None or isinstance(value, str | bytes | int | float) else f'a {class_name(value)}'
