"""Payloads and headers to bytes and back."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from torrelque.core.codec import JSON, TorrelqueTaskSerialiser, dump_headers, dump_payload, load_headers
from torrelque.errors import TorrelqueTypeError


@pytest.mark.parametrize('value', [0, 0.0, '', [], {}, None, False, 'é', {'a': [1]}])
def test_json_is_the_default_and_carries_empty_values(value: Any) -> None:  # noqa: ANN401 - any payload
    data = dump_payload(JSON, value)
    assert isinstance(data, bytes)
    assert JSON.loads(data) == value


def test_the_pickle_module_is_a_serialiser() -> None:
    assert pickle.loads(dump_payload(pickle, {1, 2})) == {1, 2}  # noqa: S301 - made one line up


@pytest.mark.parametrize('dumped', ['é', b'\xc3\xa9', bytearray(b'\xc3\xa9'), memoryview(b'\xc3\xa9')])
def test_text_and_every_kind_of_bytes_are_accepted(dumped: object) -> None:
    data = dump_payload(TorrelqueTaskSerialiser(lambda _: dumped, None), 'whatever')
    assert type(data) is bytes
    assert data == 'é'.encode()


def test_a_serialiser_that_returns_anything_else_is_named() -> None:
    with pytest.raises(TorrelqueTypeError, match='returned int, expected bytes or str'):
        dump_payload(TorrelqueTaskSerialiser(lambda _: 1, None), 'whatever')


def test_a_serialisers_own_error_comes_through() -> None:
    with pytest.raises(TypeError, match='not JSON serializable'):
        dump_payload(JSON, {1})


def test_headers_come_back() -> None:
    assert load_headers(dump_headers({'trace': 'é'})) == {'trace': 'é'}


def test_no_headers_cost_no_bytes() -> None:
    assert dump_headers(None) == dump_headers({}) == b''
    assert load_headers(b'') == {}


@pytest.mark.parametrize('data', [b'{', b'[1]', b'\xff', b'null'])
def test_damaged_headers_are_none(data: bytes) -> None:
    assert load_headers(data) == {}


def test_headers_are_strings_and_cannot_be_changed() -> None:
    headers = load_headers(b'{"n": 1}')
    assert headers == {'n': '1'}
    with pytest.raises(TypeError):
        headers['n'] = '2'  # type: ignore[index]  # that is what is tried


def test_json_after_an_error() -> None:
    """The encoder that is kept remembers what it was in the middle of when it failed."""
    inner = [1]
    with pytest.raises(TypeError, match='not JSON serializable'):
        JSON.dumps([inner, {'a': [inner, object()]}])
    assert JSON.dumps([inner, inner]) == b'[[1], [1]]'
    circular: list[object] = []
    circular.append(circular)
    with pytest.raises(ValueError, match='Circular reference'):
        JSON.dumps(circular)
    assert JSON.dumps([[], {'a': 1.5, 'b': None}, 'ä']) == b'[[], {"a": 1.5, "b": null}, "\\u00e4"]'


@pytest.mark.parametrize('text', ['', ' ', '[1', '[1] x', '{"a" 1}', '[1]]'])
def test_bad_json_raises_what_json_raises(text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as ours:
        JSON.loads(text.encode())
    with pytest.raises(json.JSONDecodeError) as standard:
        json.loads(text)
    assert str(ours.value) == str(standard.value)


def test_json_may_have_blanks_around_it() -> None:
    assert JSON.loads(b' [1, {"a": null}]\n') == [1, {'a': None}]
