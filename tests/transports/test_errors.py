"""Errors that belong to two families."""

from __future__ import annotations

import copy
import pickle
import ssl

import pytest
import redis
from coredis import exceptions as coredis_errors
from redis import exceptions as redis_errors

from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTooLargeError,
    TorrelqueTypeError,
    renew,
)
from torrelque.transports import coredis, redis_py_errors
from torrelque.transports.errors import TorrelqueAnsweredConnectionError, dual_error, leaf
from torrelque.transports.naming import named

PAIRS = [
    dual_error(TorrelqueReplyError, redis_errors.NoPermissionError('may not'), code='NOPERM'),
    dual_error(TorrelqueReplyError, redis_errors.MovedError('3999 127.0.0.1:6381'), code='MOVED'),
    dual_error(TorrelqueAnsweredConnectionError, redis.BusyLoadingError('loading'), code='LOADING'),
    dual_error(TorrelqueConnectionError, redis.ConnectionError('gone')),
    dual_error(TorrelqueResponseTimeout, TimeoutError('late')),
    dual_error(TorrelqueReplyError, coredis_errors.UnknownCommandError("unknown command 'X'"), code='ERR'),
    dual_error(TorrelqueReplyError, coredis_errors.ClusterCrossSlotError(), code='CROSSSLOT'),
]


@pytest.mark.parametrize('error', PAIRS, ids=lambda error: type(error).__name__)
def test_a_pair_is_both_and_survives_copies(error: TorrelqueError) -> None:
    ours, theirs = type(error).__bases__
    for other in (error, renew(error), copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own
        assert isinstance(other, ours)
        assert isinstance(other, theirs)
        assert type(other) is type(error)
        assert (other.args, other.__dict__) == (error.args, error.__dict__)
        assert str(other) == str(error)
        assert repr(other) == repr(error)
    assert renew(error) is not error


def test_what_the_other_family_knows_stays_known() -> None:
    error = dual_error(TorrelqueReplyError, redis_errors.MovedError('3999 127.0.0.1:6381'), code='MOVED')
    assert (error.slot_id, error.port, error.code) == (3999, 6381, 'MOVED')  # type: ignore[attr-defined] # redis-py's


def test_pairs_are_made_once() -> None:
    errors = [dual_error(TorrelqueConnectionError, redis.ConnectionError(text)) for text in 'ab']
    assert type(errors[0]) is type(errors[1])
    assert [str(error) for error in errors] == ['a', 'b']


@pytest.mark.parametrize('error', PAIRS, ids=lambda error: type(error).__name__)
def test_pairing_again_changes_nothing(error: TorrelqueError) -> None:
    for ours in (type(error).__bases__[0], *type(error).__bases__[0].__bases__):
        if issubclass(ours, TorrelqueError):
            assert dual_error(ours, error, code='OTHER') is error


def test_what_is_paired_may_get_another_type_of_ours_besides() -> None:
    reply = dual_error(TorrelqueReplyError, redis_errors.NoPermissionError('may not'), code='NOPERM')
    error = dual_error(TorrelqueHandshakeError, reply)
    narrower = dual_error(TorrelqueResponseTimeout, dual_error(TorrelqueConnectionError, redis.TimeoutError('late')))
    for one in (error, renew(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own
        assert type(one).__bases__ == (TorrelqueHandshakeError, TorrelqueReplyError, redis_errors.NoPermissionError)
        assert isinstance(one, TorrelqueReplyError)
        assert (one.code, str(one)) == ('NOPERM', 'may not')
    assert type(narrower).__bases__ == (TorrelqueResponseTimeout, redis.TimeoutError)


class Particular(redis.RedisError):
    """An error that is not made of its arguments, as a client's or a user's may be."""

    def __new__(cls, host: str, port: int) -> Particular:
        return super().__new__(cls, host, port)

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f'{host}:{port} is gone')


class Final(redis.ConnectionError):
    def __init_subclass__(cls, **_: object) -> None:
        raise TypeError('no subclasses')


@pytest.mark.parametrize(
    ('error', 'theirs'),
    [
        (Particular('here', 1), redis.RedisError),
        (Final('gone'), redis.ConnectionError),
        (coredis_errors.CommandSyntaxError({'a'}, 'both'), coredis_errors.CommandSyntaxError),
        (OSError(111, 'refused'), OSError),
        (ssl.SSLCertVerificationError(1, 'expired'), ssl.SSLCertVerificationError),
        (ExceptionGroup('two', [OSError('a'), OSError('b')]), ExceptionGroup),
        (UnicodeDecodeError('ascii', b'\xff', 0, 1, 'no'), UnicodeDecodeError),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize('ours', [TorrelqueConnectionError, TorrelqueTooLargeError, TorrelqueTypeError])
def test_an_error_of_any_class_can_be_paired(
    ours: type[TorrelqueError], error: Exception, theirs: type[Exception]
) -> None:
    paired = dual_error(ours, error)
    for one in (paired, renew(paired), pickle.loads(pickle.dumps(paired))):  # noqa: S301 - our own
        assert isinstance(one, ours)
        assert isinstance(one, theirs)
        assert str(one.args) == str(error.args)


def test_the_first_error_of_a_group() -> None:
    error = OSError('a')
    assert leaf(ExceptionGroup('one', [ExceptionGroup('inner', [error, OSError('b')])])) is error
    assert leaf(error) is error


@pytest.mark.parametrize(
    ('error', 'ours'),
    [
        (redis.ConnectionError('gone'), TorrelqueConnectionError),
        (redis.TimeoutError('Timeout reading from localhost:1'), TorrelqueResponseTimeout),
        (redis.TimeoutError('Timeout connecting to server'), TorrelqueConnectionError),
        (redis_errors.InvalidResponse('what?'), TorrelqueConnectionError),
        (redis.BusyLoadingError('loading'), TorrelqueAnsweredConnectionError),
        (redis.AuthenticationError('Authentication required.'), TorrelqueRefusedError),
        (redis_errors.MaxConnectionsError('Too many connections'), TorrelqueConnectionError),
    ],
)
def test_failures_of_redis_py(error: redis.RedisError, ours: type[TorrelqueError]) -> None:
    failure = redis_py_errors.as_failure(error)
    assert type(failure).__bases__ == (ours, type(error))
    assert str(failure) == str(error)


@pytest.mark.parametrize(
    ('error', 'ours'),
    [
        (coredis_errors.ConnectionError('gone'), TorrelqueConnectionError),
        (TimeoutError('late'), TorrelqueResponseTimeout),
        (coredis_errors.InvalidResponse('what?'), TorrelqueConnectionError),
        (coredis_errors.PrimaryNotFoundError('where?'), TorrelqueConnectionError),
        (coredis_errors.BusyLoadingError('loading'), TorrelqueAnsweredConnectionError),
        (coredis_errors.AuthenticationFailureError('no'), TorrelqueRefusedError),
    ],
)
def test_failures_of_coredis(error: Exception, ours: type[TorrelqueError]) -> None:
    failure = coredis.as_failure(error)
    assert type(failure).__bases__ == (ours, type(error))


def test_a_failure_below_coredis_is_told_as_one_of_its_own() -> None:
    failure = coredis.as_failure(OSError(104, 'reset by peer'))
    assert type(failure).__bases__ == (TorrelqueConnectionError, coredis_errors.ConnectionError)
    assert 'reset by peer' in str(failure)


@pytest.mark.parametrize(
    ('error', 'code'),
    [
        (redis_errors.NoScriptError('No matching script.'), 'NOSCRIPT'),
        (redis.ResponseError('WRONGTYPE Operation against a key'), 'WRONGTYPE'),
        (redis.ResponseError('unknown command'), 'ERR'),
        (redis.ReadOnlyError("You can't write against a read only replica."), 'READONLY'),
        (redis.OutOfMemoryError('command not allowed'), 'OOM'),
    ],
)
def test_codes_are_found_without_help_of_redis_py(error: Exception, code: str) -> None:
    assert redis_py_errors.as_reply_error(error).code == code


def test_what_is_named_in_messages() -> None:
    assert named('x') == "'x'"
    assert named(None) == 'None'
    assert named(redis.Redis(password='secret')) == 'a redis.client.Redis'
