"""Calls, and the driver that needs no event loop."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.core.support import end, names
from torrelque.core.protocol import Batch, Call, Interrupted, Operation, Reply, Script, blocking_drive
from torrelque.errors import TorrelqueConnectionError, TorrelqueError, TorrelqueNewerError, TorrelqueReplyError

SCRIPT = Script('verb', 'return 1', ('pending',))


def test_words_of_a_script_name_its_sha_and_count_its_keys() -> None:
    call = Call[Reply](SCRIPT, (b'q:pending',), ('a', 1))
    assert call.words() == ['EVALSHA', SCRIPT.sha, 1, b'q:pending', 'a', 1]
    assert call.words_with_source() == ['EVAL', 'return 1', 1, b'q:pending', 'a', 1]


def test_words_of_a_command_are_split() -> None:
    assert Call[Reply]('SCRIPT LOAD', args=('x',)).words() == ['SCRIPT', 'LOAD', 'x']
    assert Call[Reply]('GET', (b'k',)).words_with_source() == ['GET', b'k']


def test_scripts_of_other_sources_have_other_shas() -> None:
    assert SCRIPT.sha != Script('verb', 'return 2', ('pending',)).sha


def test_a_call_is_an_operation_that_parses_its_reply() -> None:
    operation = iter(Call('LLEN', (b'k',), parse=lambda reply: int(reply) + 1))
    assert names(next(operation)) == ['LLEN']
    assert end(operation, [41]) == 42


@pytest.mark.parametrize(
    ('counters', 'name'), [(b'email:counters', 'email'), (b'{email}:counters', 'email'), (b'{a:b:3}:counters', 'a:b')]
)
def test_a_queue_of_a_later_version_is_named(counters: bytes, name: str) -> None:
    operation = iter(Call[Reply](Script('any', 'return 1', ('tasks', 'counters')), (b'tasks', counters)))
    next(operation)
    with pytest.raises(TorrelqueNewerError, match=f"^queue '{name}' uses features of a later version"):
        operation.send([TorrelqueReplyError('NEWER the queue uses features of a later version')])


def test_an_error_reply_is_raised_unparsed() -> None:
    operation = iter(Call('LLEN', (b'k',), parse=int))
    next(operation)
    with pytest.raises(TorrelqueReplyError, match='wrong kind'):
        operation.send([TorrelqueReplyError('WRONGTYPE wrong kind of value')])


def test_an_unknown_script_is_loaded_and_called_again() -> None:
    operation = iter(Call(SCRIPT, parse=int))
    next(operation)
    batch = operation.send([TorrelqueReplyError('NOSCRIPT No matching script.')])
    assert names(batch) == ['SCRIPT LOAD', 'verb']
    assert batch[0].args == ('return 1',)
    assert end(operation, [SCRIPT.sha.encode(), 7]) == 7


MISSING = 'NOSCRIPT No matching script.'


@pytest.mark.parametrize(
    ('loaded', 'called', 'code', 'told'),
    [
        ('NOPERM no permissions for script|load', MISSING, 'NOPERM', 'SCRIPT LOAD was refused.*script.load'),
        ("ERR unknown command 'SCRIPT'", MISSING, 'ERR', 'SCRIPT LOAD was refused.*unknown command'),
        ('LOADING the dataset', MISSING, 'LOADING', '^LOADING'),
        ('', MISSING, 'NOSCRIPT', 'NOSCRIPT'),
        ('', 'NOPERM no permissions for get', 'NOPERM', '^NOPERM'),
        ('NOPERM no', 'WRONGTYPE what?', 'WRONGTYPE', 'WRONGTYPE'),  # somebody else has loaded it
    ],
)
def test_a_script_that_cannot_be_loaded_is_an_error(loaded: str, called: str, code: str, told: str) -> None:
    operation = iter(Call(SCRIPT, parse=int))
    next(operation)
    operation.send([TorrelqueReplyError(MISSING)])
    with pytest.raises(TorrelqueReplyError, match=told) as caught:
        operation.send([TorrelqueReplyError(loaded) if loaded else SCRIPT.sha, TorrelqueReplyError(called)])
    assert caught.value.code == code


def test_a_command_is_not_loaded() -> None:
    operation = iter(Call[Reply]('GET', (b'k',)))
    next(operation)
    with pytest.raises(TorrelqueReplyError):
        operation.send([TorrelqueReplyError('NOSCRIPT what?')])


def adding() -> Operation[int]:
    one = yield from Call('GET', (b'a',), parse=int)
    other = yield from Call('GET', (b'b',), parse=int)
    return one + other


def test_blocking_drive_runs_to_the_end() -> None:
    values = {b'a': 1, b'b': 2}

    def execute(batch: Batch) -> Sequence[Reply]:
        return [values[bytes(call.keys[0])] for call in batch]  # type: ignore[arg-type]  # keys are bytes here

    assert blocking_drive(adding(), execute) == 3


def test_blocking_drive_lets_an_interrupted_operation_clean_up() -> None:
    seen: list[str] = []

    def tidy() -> Operation[None]:
        try:
            yield from Call('SET')
        except Interrupted:
            yield from Call('DEL')
            raise

    def execute(batch: Batch) -> Sequence[Reply]:
        seen.extend(names(batch))
        if seen == ['SET']:
            raise TorrelqueConnectionError('gone')
        return [None]

    with pytest.raises(TorrelqueConnectionError, match='gone'):
        blocking_drive(tidy(), execute)
    assert seen == ['SET', 'DEL']


def test_blocking_drive_names_an_interruption_without_a_cause() -> None:
    def stopped() -> Operation[None]:
        yield ()
        raise Interrupted

    with pytest.raises(TorrelqueError, match='interrupted'):
        blocking_drive(stopped(), lambda _: [])


def test_an_interruption_is_no_ordinary_error() -> None:
    assert not issubclass(Interrupted, Exception)
