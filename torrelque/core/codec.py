"""Payloads, results and headers to bytes and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torrelque.core.models import NO_HEADERS, Payload
from torrelque.errors import TorrelqueTypeError

__all__ = ('JSON', 'Serialiser', 'TorrelqueTaskSerialiser', 'dump_headers', 'dump_payload', 'load_headers')


class Serialiser(Protocol[Payload]):
    """What a queue's ``serialiser`` must have. The ``pickle`` module has it as well."""

    def dumps(self, value: Payload, /) -> bytes | bytearray | memoryview | str:
        """Serialise a value. A ``str`` is encoded as UTF-8."""
        ...

    def loads(self, data: bytes, /) -> Payload:
        """Deserialise what `dumps` returned."""
        ...


class TorrelqueTaskSerialiser(NamedTuple):
    """A pair of functions: object to ``bytes`` (or ``str``), and ``bytes`` to object."""

    dumps: Any
    loads: Any


_encoder = json.JSONEncoder()
_decoder: Any = json.JSONDecoder()
_scan = _decoder.scan_once


def _make_fast() -> Callable[[Any, int], tuple[str, ...]] | None:
    """The encoder in C, which `json` creates again for each value."""
    make: Any = getattr(json.encoder, 'c_make_encoder', None)
    if make is None:
        return None
    escape = json.encoder.encode_basestring_ascii
    names: tuple[Any, ...] = ({}, _encoder.default, escape, None, ': ', ', ', False, False, True)  # it takes no names
    fast: Callable[[Any, int], tuple[str, ...]] = make(*names)
    return fast


_fast = _make_fast()


def _dump_json(value: Any) -> bytes:  # noqa: ANN401 - whatever JSON can write
    global _fast  # noqa: PLW0603 - one for all
    if _fast is not None:
        try:
            return ''.join(_fast(value, 0)).encode()
        except Exception:  # noqa: BLE001 - raised again below, if it is not this one's memory of another error
            _fast = _make_fast()
    return _encoder.encode(value).encode()


def _load_json(data: bytes) -> Any:  # noqa: ANN401 - whatever JSON can write
    text = data.decode()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        end = -1
    return value if end == len(text) else _decoder.decode(text)


JSON = TorrelqueTaskSerialiser(_dump_json, _load_json)
"""The default. It runs no code that a payload brings along."""


def dump_payload(serialiser: Serialiser[Payload], value: Payload) -> bytes:
    """Serialise; a ``str`` is encoded. Whatever the serialiser raises comes through."""
    data = serialiser.dumps(value)
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TorrelqueTypeError(f'the serialiser returned {type(data).__name__}, expected bytes or str')


def dump_headers(headers: Mapping[str, str] | None) -> bytes:
    """Headers as JSON; empty for none."""
    return json.dumps(dict(headers), separators=(',', ':')).encode() if headers else b''


def load_headers(data: bytes) -> Mapping[str, str]:
    """The headers; none where somebody damaged them."""
    if not data:
        return NO_HEADERS
    try:
        headers = json.loads(data)
    except ValueError:
        return NO_HEADERS
    if not isinstance(headers, dict):
        return NO_HEADERS
    return MappingProxyType({str(name): str(value) for name, value in headers.items()})
