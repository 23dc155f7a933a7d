"""Objects of the user's modules, by their names on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from torrelque.cli.errors import Refusal
from torrelque.cli.exit_codes import Exit
from torrelque.cli.importer import find_shadows, load

MODULE = 'torrelque_test_handlers'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, which is searched for modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    yield tmp_path
    sys.modules.pop(MODULE, None)


def refused(name: str) -> str:
    with pytest.raises(Refusal) as caught:
        load(name, 'the handler')
    assert caught.value.status is Exit.USAGE
    return str(caught.value)


def test_modules_and_what_they_hold(folder: Path) -> None:
    (folder / f'{MODULE}.py').write_text('class Mail:\n    send = 7\n')
    assert load(MODULE, 'the handler').Mail.send == 7
    assert load(f'{MODULE}:Mail.send', 'the handler') == 7


@pytest.mark.parametrize('name', ['', ':send', f'{MODULE}:'])
def test_names_that_are_none(name: str) -> None:
    assert refused(name) == f'the handler must be given as module:object, got {name!r}'


def test_an_object_that_is_not_there(folder: Path) -> None:
    (folder / f'{MODULE}.py').touch()
    assert refused(f'{MODULE}:send') == f"cannot find the handler: module '{MODULE}' has no attribute 'send'"


@pytest.mark.parametrize(
    ('source', 'said'),
    [
        ('\n1 / 0', 'ZeroDivisionError: division by zero (FILE, line 2)'),
        ('raise SystemExit("no")', "it called sys.exit('no') (FILE, line 1)"),
        ('import not_there', "ModuleNotFoundError: No module named 'not_there' (FILE, line 1)"),
    ],
)
def test_an_import_that_fails(folder: Path, source: str, said: str) -> None:
    file = folder / f'{MODULE}.py'
    file.write_text(source)
    expected = said.replace('FILE', str(file))
    assert (
        refused(f'{MODULE}:send')
        == f"cannot import '{MODULE}': {expected} (set TORRELQUE_DEBUG=1 to see the traceback)"
    )


def test_with_debugging_the_error_itself_is_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORRELQUE_DEBUG', '1')
    (folder / f'{MODULE}.py').write_text('1 / 0')
    with pytest.raises(ZeroDivisionError):
        load(MODULE, 'the handler')


def test_a_module_that_the_standard_library_hides(folder: Path) -> None:
    (folder / 'string.py').write_text('send = 7')
    assert refused('string:send').endswith(f"; the standard library's string hides {folder / 'string.py'}: rename it")


def test_modules_that_hide_the_standard_librarys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_shadows(str(folder)) == []
    monkeypatch.setattr(sys.modules['string'], '__file__', str(folder / 'string.py'))
    monkeypatch.setattr(sys.modules['json'], '__file__', str(folder / 'json' / '__init__.py'))
    assert find_shadows(str(folder)) == [folder / 'json', folder / 'string.py']
