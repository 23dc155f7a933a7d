"""How messages name an object that was passed by mistake."""

from __future__ import annotations

import pytest

from torrelque.transports.naming import class_name, named


class Client:
    def __repr__(self) -> str:
        return '<Client password=hidden>'


@pytest.mark.parametrize(('value', 'text'), [(None, 'None'), ('a', "'a'"), (b'a', "b'a'"), (7, '7'), (0.5, '0.5')])
def test_simple_values(value: object, text: str) -> None:
    assert named(value) == text


def test_of_anything_else_the_class() -> None:
    assert class_name(Client()) == f'{__name__}.Client'
    assert named(Client()) == f'a {__name__}.Client'
