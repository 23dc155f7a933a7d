"""Serialisers for payloads and results.

Pass one as ``serialiser=`` or ``result_serialiser=`` of :class:`torrelque.Torrelque`::

    queue = Torrelque(client, serialiser=serialisers.pydantic(Email))

A serialiser has ``dumps(value)``, which returns bytes, and ``loads(data)``. The functions `msgspec` and `pydantic`
import the packages with these names, which are not installed with the library.
"""

from __future__ import annotations

import pickle as _pickle
from importlib import import_module
from typing import Any, Generic, TypeVar, overload

from torrelque.core.codec import JSON, Serialiser

__all__ = ('JSON', 'Serialiser', 'msgspec', 'pickle', 'pydantic')

T = TypeVar('T')


class _Typed(Generic[T]):
    """Serialises values of one type as JSON."""

    def __init__(self, dumps: Any, loads: Any, to_builtins: Any, from_builtins: Any) -> None:  # noqa: ANN401 - the package's
        self._dumps = dumps
        self._loads = loads
        self._to_builtins = to_builtins
        self._from_builtins = from_builtins

    def dumps(self, value: T, /) -> bytes:
        data: bytes = self._dumps(value)
        return data

    def loads(self, data: bytes, /) -> T:
        value: T = self._loads(data)
        return value

    def to_builtins(self, value: T, /) -> Any:  # noqa: ANN401 - what JSON knows
        """Return the value in types that JSON supports."""
        return self._to_builtins(value)

    def from_builtins(self, value: Any, /) -> T:  # noqa: ANN401 - what JSON knows
        """Return the value from the result of `to_builtins`."""
        made: T = self._from_builtins(value)
        return made


@overload
def msgspec(type: type[T]) -> Serialiser[T]: ...
@overload
def msgspec(type: object) -> Serialiser[Any]: ...
def msgspec(type: object) -> Serialiser[Any]:  # noqa: A002 - a type, or a form such as a union
    """Create a serialiser that validates JSON with the package ``msgspec``.

    Args:
        type: The type of payloads: a ``msgspec.Struct``, a dataclass, or any other type that msgspec supports.

    Returns:
        The serialiser.

    Raises:
        ImportError: The package is not installed.
    """
    package = import_module('msgspec')
    return _Typed(
        package.json.Encoder().encode,
        package.json.Decoder(type).decode,
        package.to_builtins,
        lambda value: package.convert(value, type),
    )


@overload
def pydantic(type: type[T]) -> Serialiser[T]: ...
@overload
def pydantic(type: object) -> Serialiser[Any]: ...
def pydantic(type: object) -> Serialiser[Any]:  # noqa: A002 - a type, or a form such as a union
    """Create a serialiser that validates JSON with the package ``pydantic``, version 2.

    Args:
        type: The type of payloads: a model, a dataclass, or any other type that pydantic supports.

    Returns:
        The serialiser.

    Raises:
        ImportError: The package is not installed.
    """
    adapter = import_module('pydantic').TypeAdapter(type)
    return _Typed(
        adapter.dump_json,
        adapter.validate_json,
        lambda value: adapter.dump_python(value, mode='json'),
        adapter.validate_python,
    )


class _Pickle:
    def dumps(self, value: Any, /) -> bytes:  # noqa: ANN401 - any value
        return _pickle.dumps(value)

    def loads(self, data: bytes, /) -> Any:  # noqa: ANN401 - any value
        return _pickle.loads(data)  # noqa: S301 - the warning is in the documentation


pickle: Serialiser[Any] = _Pickle()
"""Any Python object, with :mod:`pickle`.

Warning: unpickling can run any code that a payload contains. Use it only if only your own programs can write to the
server.
"""
