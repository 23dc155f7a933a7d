"""Payloads of any serialiser, shown to people and programs."""

from __future__ import annotations

import json
import pickle

import pytest

from torrelque.cli.payloads import MOST, preview, render, show_bytes


def test_json_is_indented() -> None:
    assert render(b'{"a": ["Z\\u00f6e", 1]}') == ('json', '{\n  "a": [\n    "Zöe",\n    1\n  ]\n}')


def test_json_cannot_steer_the_terminal() -> None:
    encoding, text = render(json.dumps('a\x9b31m\u202e').encode())
    assert (encoding, text) == ('json', '"a\\x9b31m\\u202e"')


def test_text_is_shown_as_it_is() -> None:
    assert render('Zöe\n\tline'.encode()) == ('text', 'Zöe\n\tline')


@pytest.mark.parametrize('data', [b'\x1b[31mred', b'\xff\xfe', pickle.dumps({'a': 1})])
def test_anything_else_is_hexadecimal(data: bytes) -> None:
    encoding, text = render(data)
    assert encoding == 'hex'
    assert text.isascii()
    assert bytes.fromhex(text.splitlines()[0][8:55]) == data[:16]


def test_a_dump_has_addresses_and_what_can_be_read() -> None:
    assert render(b'\x00' * 16 + b'ab\xff').text.splitlines() == [
        '000000  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................',
        '000010  61 62 ff                                         ab.',
    ]


def test_deep_json_is_no_trouble() -> None:
    assert render(b'[' * 50_000).encoding == 'text'


def test_of_large_payloads_the_beginning_is_shown() -> None:
    assert render(b'a' * (MOST + 1000), MOST) == ('text', 'a' * MOST + '\n… 1,000 bytes more')
    assert render('ä'.encode() * MOST, MOST).encoding == 'text'  # also where it is cut within a character
    assert render(b'a' + 'ä'.encode() * MOST, MOST).encoding == 'text'
    assert render(b'a' * 100 + b'\xff' + b'a' * MOST, MOST).encoding == 'hex'


def test_previews_are_on_one_line() -> None:
    assert preview(b'{"a":\n 1}') == '{"a": 1}'
    assert preview(b'\x80\x04') == '80 04'
    assert preview(b'\x1b[31m') == '1b 5b 33 31 6d'
    assert preview(None) == ''


@pytest.mark.parametrize(
    ('data', 'encoding', 'value'),
    [
        (b'{"a": [1, "\xc3\xbc"]}', 'json', {'a': [1, 'ü']}),
        (b'"x"', 'json', 'x'),
        (b'NaN', 'text', 'NaN'),
        (b'two\nlines', 'text', 'two\nlines'),
        (b'[' * 100_000, 'text', '[' * 100_000),
        (b'\x1b[2J', 'hex', '1b 5b 32 4a'),
        (b'\xff\x00', 'hex', 'ff 00'),
        (b'', 'text', ''),
        (pickle.dumps(None), 'hex', pickle.dumps(None).hex(' ')),
    ],
)
def test_payloads_of_all_sorts(data: bytes, encoding: str, value: object) -> None:
    assert show_bytes(data) == (encoding, value)
