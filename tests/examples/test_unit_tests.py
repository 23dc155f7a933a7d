"""The example of tests without a server: they pass, and notice if the application is wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.examples.support import PATIENCE, PYTHON, ROOT

FOLDER = ROOT / 'examples' / 'unit_tests'
WRITTEN = (FOLDER / 'test_newsletter.py').read_text(encoding='utf-8').count('\nasync def test_')


def run_in(folder: Path) -> str:
    command = [*PYTHON, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'examples/unit_tests']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=folder)
    return ended.stdout


def test_they_pass_on_both_event_loops() -> None:
    assert re.search(rf'^{2 * WRITTEN} passed in ', run_in(ROOT), re.MULTILINE)


def test_they_notice_what_is_wrong(tmp_path: Path) -> None:
    copy = tmp_path / 'examples' / 'unit_tests'
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    application = copy / 'newsletter.py'
    application.write_text(application.read_text(encoding='utf-8').replace('attempts=4', 'attempts=3'))
    assert re.search(r'^2 failed, ', run_in(tmp_path), re.MULTILINE)
