"""What examples/README.md and docs/examples.md say is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.examples.support import ROOT

EXAMPLES = ROOT / 'examples'
PAGES = [EXAMPLES / 'README.md', ROOT / 'docs' / 'examples.md']


def commands(page: Path) -> list[str]:
    blocks: list[str] = re.findall(r'^```shell\n((?s:.*?))^```$', page.read_text(encoding='utf-8'), re.MULTILINE)
    return ''.join(blocks).splitlines()


def test_both_pages_have_the_same_commands() -> None:
    first, second = map(commands, PAGES)
    assert first == second


SETTING_UP = [
    'python3 -m venv .venv',
    '. .venv/bin/activate',
    "pip install -c constraints.txt -e '.[dev]'",
    'torrelque serve',
]


def test_an_environment_and_a_server_come_first() -> None:
    assert commands(PAGES[0])[: len(SETTING_UP)] == SETTING_UP


@pytest.mark.parametrize('command', commands(PAGES[0])[len(SETTING_UP) :])
def test_what_is_to_be_run_exists(command: str) -> None:
    """That it works is what the other tests are about."""
    match shlex.split(command):
        case ['python', '-m', 'pytest', folder]:
            assert (ROOT / folder).is_dir()
        case ['python', '-m', module]:
            main = ROOT / module.replace('.', '/') / '__main__.py'
            assert command in main.read_text(encoding='utf-8')
        case ['python', file, *_]:
            assert command in (ROOT / file).read_text(encoding='utf-8').replace('FOLDER', 'torrelque')
        case _:
            raise AssertionError(command)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_example_is_named(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    for path in EXAMPLES.iterdir():
        if path.suffix == '.py' or (path.is_dir() and path.name != '__pycache__'):
            assert re.search(rf'\b{path.name}\b', text), path.name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r'\]\((\S+?)\)', PAGES[0].read_text(encoding='utf-8')):
        assert (EXAMPLES / target).exists(), target
