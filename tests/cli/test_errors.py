"""Each error ends the command with one line that helps, and with its exit status."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import torrelque
from torrelque.cli.errors import Refusal, explain, first_of, reported
from torrelque.cli.exit_codes import Exit


@pytest.mark.parametrize(
    ('error', 'text', 'status'),
    [
        (Refusal('no'), 'no', Exit.NEGATIVE),
        (Refusal('no', Exit.USAGE), 'no', Exit.USAGE),
        (torrelque.TorrelqueLookupError('no task'), 'no task', Exit.NEGATIVE),
        (torrelque.TorrelqueValueError('delay'), 'delay', Exit.USAGE),
        (torrelque.TorrelqueTimeoutError('late'), 'late', Exit.TIMEOUT),
        (
            torrelque.TorrelqueConnectionError('refused'),
            'refused. Is the server running, and is --url or TORRELQUE_URL right?',
            Exit.SERVER,
        ),
        (torrelque.TorrelqueHandshakeError('no TLS'), 'no TLS', Exit.SERVER),
        (
            torrelque.TorrelqueReplyError('OOM no memory'),
            'the server refuses: OOM no memory (the server is full)',
            Exit.SERVER,
        ),
        (torrelque.TorrelqueReplyError('ERR strange'), 'the server refuses: ERR strange', Exit.SERVER),
        (FileNotFoundError(2, 'No such file', 'tasks.jsonl'), 'tasks.jsonl: No such file', Exit.USAGE),
        (KeyError('x'), "unexpected KeyError: 'x' (set TORRELQUE_DEBUG=1 to see where)", Exit.BUG),
        (RuntimeError(), 'unexpected RuntimeError: RuntimeError (set TORRELQUE_DEBUG=1 to see where)', Exit.BUG),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else '',
)
def test_what_is_said(error: Exception, text: str, status: Exit) -> None:
    assert explain(error) == (text, status)


def test_of_a_group_the_first_counts_unless_the_user_interrupted() -> None:
    first, second = ValueError('first'), ValueError('second')
    group = BaseExceptionGroup('outer', [ExceptionGroup('inner', [first]), second])
    assert first_of(group) is first
    assert first_of(first) is first
    interrupted = BaseExceptionGroup('outer', [second, BaseExceptionGroup('inner', [KeyboardInterrupt()])])
    assert isinstance(first_of(interrupted), KeyboardInterrupt)


def ending_with(error: BaseException) -> int:
    with pytest.raises(SystemExit) as ended, reported():
        raise error
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_it_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_with(Refusal('two\n lines', Exit.TIMEOUT)) == Exit.TIMEOUT
    assert ending_with(KeyboardInterrupt()) == Exit.INTERRUPTED
    assert capsys.readouterr() == ('', 'torrelque: two lines\ntorrelque: interrupted\n')


def test_the_debugging_variable_shows_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORRELQUE_DEBUG', '1')
    with pytest.raises(Refusal), reported():
        raise Refusal('no')


def test_exits_pass() -> None:
    assert ending_with(SystemExit(5)) == 5


def test_an_output_without_a_reader_is_discarded(capfd: pytest.CaptureFixture[str]) -> None:
    assert ending_with(BrokenPipeError()) == Exit.BROKEN_PIPE
    os.write(1, b'to nobody')
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('raise_it', [lambda: pytest.fail('x'), lambda: (_ for _ in ()).throw(GeneratorExit)])
def test_what_is_no_exception_is_not_reported(raise_it: Callable[[], object]) -> None:
    with pytest.raises(BaseException, match=r'x|^$'), reported():
        next(iter(raise_it()))  # type: ignore[call-overload]  # raises before
