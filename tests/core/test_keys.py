"""Names of keys."""

from __future__ import annotations

from tests.core.support import SCRIPTS
from torrelque.core.keys import LOGICAL_NAMES, Keys


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
