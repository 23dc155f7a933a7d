"""Keys of five types, with expiry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.keyspace import Keyspace


@pytest.fixture
def db() -> Keyspace:
    made = Keyspace()
    made.move_to(1000.0)
    return made


def fill(db: Keyspace) -> None:
    db.put(b's', b'1')
    db.rpush(b'l', [b'a'])
    db.hset(b'h', {b'f': b'1'})
    db.sadd(b'm', [b'a'])
    db.zadd(b'z', {b'a': 1.0})


READS: list[tuple[str, Callable[[Keyspace, bytes], object]]] = [
    ('string', Keyspace.string_at),
    ('list', Keyspace.list_at),
    ('hash', Keyspace.hash_at),
    ('set', Keyspace.set_at),
    ('zset', Keyspace.zset_at),
]


def test_each_key_has_one_type(db: Keyspace) -> None:
    fill(db)
    assert {key: db.type_at(key) for key in (*db.keys, b'none')} == {
        b's': 'string', b'l': 'list', b'h': 'hash', b'm': 'set', b'z': 'zset', b'none': 'none',
    }  # fmt: skip
    for kind, read in READS:
        for key in db.keys:
            if db.type_at(key) == kind:
                assert read(db, key)
            else:
                with pytest.raises(TorrelqueReplyError) as wrong:
                    read(db, key)
                assert wrong.value.code == 'WRONGTYPE'
        assert not read(db, b'none')


def test_what_becomes_empty_is_gone_with_its_expiry(db: Keyspace) -> None:
    fill(db)
    for key in (b'l', b'h', b'm', b'z'):
        db.pexpire(key, 10_000)
    assert db.lpop(b'l', 5) == [b'a']
    assert (db.hdel(b'h', [b'f', b'g']), db.srem(b'm', [b'a', b'b']), db.zrem(b'z', [b'a', b'b'])) == (1, 1, 1)
    assert db.keys == [b's']
    fill(db)
    assert {db.pttl(key) for key in db.keys} == {-1}


def test_nothing_is_made_of_nothing(db: Keyspace) -> None:
    db.lpush(b'l', [])
    db.rpush(b'l', [])
    assert (db.hset(b'h', {}), db.sadd(b'm', []), db.zadd(b'z', {})) == (0, 0, 0)
    assert db.keys == []


def test_expiry(db: Keyspace) -> None:
    fill(db)
    assert db.pexpire(b's', 2000)
    assert not db.pexpire(b'none', 2000)
    db.pexpire(b'l', 1000)
    assert db.pexpire(b'h', 0)
    assert (db.pttl(b's'), db.pttl(b'z'), db.pttl(b'h')) == (2000, -1, -2)
    db.move_to(1001.0)
    assert (db.pttl(b'l'), db.type_at(b'l')) == (0, 'list')
    db.move_to(1001.001)
    assert db.type_at(b'l') == 'none'
    assert db.persist(b's')
    assert not db.persist(b's')
    db.move_to(5000.0)
    assert db.type_at(b's') == 'string'


def test_a_new_string_has_an_expiry_of_its_own(db: Keyspace) -> None:
    db.put(b's', b'1', 1000)
    db.put(b's', b'2')
    assert db.pttl(b's') == -1
    db.rpush(b'l', [b'a'])
    db.put(b'l', b'3', 500)
    assert (db.string_at(b'l'), db.pttl(b'l')) == (b'3', 500)


def test_lists(db: Keyspace) -> None:
    db.lpush(b'l', [b'b', b'a'])
    db.rpush(b'l', [b'a', b'c', b'a'])
    assert list(db.list_at(b'l')) == [b'a', b'b', b'a', b'c', b'a']
    assert db.lrem(b'l', -1, b'a') == 1
    assert list(db.list_at(b'l')) == [b'a', b'b', b'a', b'c']
    assert db.lrem(b'l', 1, b'a') == 1
    assert (db.rpop(b'l', 2), db.lpop(b'l')) == ([b'c', b'a'], [b'b'])
    assert db.lrem(b'l', 0, b'a') == 0


def test_counts_of_what_is_new(db: Keyspace) -> None:
    fill(db)
    assert db.hset(b'h', {b'f': b'2', b'g': b'3'}) == 1
    assert db.sadd(b'm', [b'a', b'b']) == 1
    assert db.zadd(b'z', {b'a': 2.0, b'b': 3.0}) == 1
    assert db.delete([b'h', b'm', b'none']) == 2


def test_a_snapshot_is_plain_and_a_copy(db: Keyspace) -> None:
    fill(db)
    db.pexpire(b'z', 1)
    shot = db.snapshot()
    assert shot == {
        b's': ('string', b'1', None), b'l': ('list', [b'a'], None), b'h': ('hash', {b'f': b'1'}, None),
        b'm': ('set', {b'a'}, None), b'z': ('zset', {b'a': 1.0}, 1_000_001),
    }  # fmt: skip
    db.rpush(b'l', [b'b'])
    db.clear()
    assert shot[b'l'] == ('list', [b'a'], None)
    assert db.snapshot() == {}
