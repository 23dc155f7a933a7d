"""Converts payloads, results and headers to bytes and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torrelque.core.models import NO_HEADERS, Payload
from torrelque.errors import TorrelqueTypeError

__all__ = ('JSON', 'Serialiser', 'TorrelqueTaskSerialiser', 'dump_headers', 'dump_payload', 'load_headers')


class Serialiser(Protocol[Payload]):
    """The interface of a queue's ``serialiser``. The ``pickle`` module has it, too."""

    def dumps(self, value: Payload, /) -> bytes | bytearray | memoryview | str:
        """Serialise a value. If this returns a ``str``, it is encoded as UTF-8."""
        ...

    def loads(self, data: bytes, /) -> Payload:
        """Deserialise what `dumps` returned."""
        ...


class TorrelqueTaskSerialiser(NamedTuple):
    """A pair of functions.

    Attributes:
        dumps: Converts an object to ``bytes``, or to ``str``, which is encoded as UTF-8.
        loads: Converts ``bytes`` to an object.
    """

    dumps: Any
    loads: Any


_encoder = json.JSONEncoder()
_decoder: Any = json.JSONDecoder()
_scan = _decoder.scan_once


def _make_fast() -> Callable[[Any, int], tuple[str, ...]] | None:
    """Return the encoder in C, which `json` would create again for each value; None if there is none."""
    make: Any = getattr(json.encoder, 'c_make_encoder', None)
    if make is None:
        return None
    escape = json.encoder.encode_basestring_ascii
    names: tuple[Any, ...] = ({}, _encoder.default, escape, None, ': ', ', ', False, False, True)  # it takes no names
    fast: Callable[[Any, int], tuple[str, ...]] = make(*names)
    return fast


_fast = _make_fast()


def _dump_json(value: Any) -> bytes:  # noqa: ANN401 - anything that JSON can write
    global _fast  # noqa: PLW0603 - shared by all queues
    if _fast is not None:
        try:
            return ''.join(_fast(value, 0)).encode()
        except Exception:  # noqa: BLE001 - a failed encoder keeps stale state; the slow one below raises real errors
            _fast = _make_fast()
    return _encoder.encode(value).encode()


def _load_json(data: bytes) -> Any:  # noqa: ANN401 - anything that JSON can write
    text = data.decode()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _decoder.decode(text)


JSON = TorrelqueTaskSerialiser(_dump_json, _load_json)
"""The default serialiser. Unlike pickle, it never runs code from a payload."""


def dump_payload(serialiser: Serialiser[Payload], value: Payload) -> bytes:
    """Serialise a value. Errors of the serialiser propagate.

    Raises:
        TorrelqueTypeError: The serialiser returned neither bytes nor str.
    """
    data = serialiser.dumps(value)
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TorrelqueTypeError(f'the serialiser returned {type(data).__name__}, expected bytes or str')


def dump_headers(headers: Mapping[str, str] | None) -> bytes:
    """Return headers as JSON; empty if there are none."""
    return json.dumps(dict(headers), separators=(',', ':')).encode() if headers else b''


def load_headers(data: bytes) -> Mapping[str, str]:
    """Return the headers; none if the data is damaged."""
    if not data:
        return NO_HEADERS
    try:
        headers = json.loads(data)
    except ValueError:
        return NO_HEADERS
    if not isinstance(headers, dict):
        return NO_HEADERS
    return MappingProxyType({str(name): str(value) for name, value in headers.items()})
