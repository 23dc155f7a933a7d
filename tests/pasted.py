"""Runs tests that the documentation shows, in a pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_pytest(folder: Path, *arguments: str, seconds: float) -> str:
    """Run pytest in a folder, with warnings as errors; returns its output. Raises AssertionError if it fails."""
    plugins = ('-p', 'no:valkey', '-p', 'no:cacheprovider')
    ended = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-W', 'error', *plugins, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=folder,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
