"""Names of keys."""

from __future__ import annotations

import pytest

from tests.core.support import SCRIPTS
from torrelque.core.keys import LOGICAL_NAMES, Keys, tagged, untagged
from torrelque.errors import TorrelqueValueError


def test_the_published_names_are_those_of_09() -> None:
    keys = Keys.of_queue('email')
    for name in ('pending', 'dequeueing', 'undequeued', 'working', 'delayed', 'tasks', 'task'):
        assert keys[name] == b'email:' + name.encode()


def test_names_can_be_replaced_and_are_encoded() -> None:
    keys = Keys({**LOGICAL_NAMES, 'pending': 'é', 'task': 't'})
    assert keys['pending'] == 'é'.encode()
    assert keys.state('ü') == 't:ü'.encode()


def test_a_hash_tag_is_on_every_key_of_a_queue() -> None:
    keys = Keys.of_queue('{q}')
    assert all(keys[name].startswith(b'{q}:') for name in LOGICAL_NAMES)


def test_scripts_get_the_keys_that_they_declare() -> None:
    keys = Keys.of_queue('q')
    for script in SCRIPTS.values():
        assert keys.of(script) == tuple(b'q:' + name.encode() for name in script.keys)
        assert keys.of(script) is keys.of(script)


@pytest.mark.parametrize(
    ('queue', 'name'),
    [
        ('mail', '{mail}'),
        ('{mail}', '{mail}'),
        ('a{b}c', 'a{b}c'),
        ('a{}b', '{a{}b}'),
        ('a{b', '{a{b}'),
        ('a}b', '{a}b}'),
    ],
)
def test_on_a_cluster_a_name_has_a_hash_tag(queue: str, name: str) -> None:
    assert tagged(queue) == name
    assert tagged(name) == name


def test_a_name_that_cannot_have_one() -> None:
    with pytest.raises(TorrelqueValueError, match='}mail'):
        tagged('}mail')


@pytest.mark.parametrize(('name', 'queue'), [('{mail}', 'mail'), ('a{b}c', 'a{b}c'), ('{a}b', '{a}b'), ('{}', '{}')])
def test_and_is_told_without_it(name: str, queue: str) -> None:
    assert untagged(name) == queue
