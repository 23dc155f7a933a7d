"""Puts results into the documentation: the figures, the tables made of them, and the plots."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from benchmarks import report
from benchmarks.environments import ENVIRONMENTS, FOLDER, ROOT

PAGES = ROOT / 'docs/performance'
README = ROOT / 'README.md'
BEGIN, END = '<!-- Written by make bench: -->\n', '<!-- until here -->\n'
BOOT = f'import sys; sys.path.append({str(ROOT)!r}); from benchmarks import plots; plots.main(sys.argv[1:])'


def publish(results: Path, pages: Path = PAGES, readme: Path = README) -> None:
    """Write results, and the tables and plots of them, into a folder, and a short table into the README.

    Raises UnavailableError if it cannot plot.
    """
    pages.mkdir(parents=True, exist_ok=True)
    text = results.read_text()
    (pages / 'results.json').write_text(text)
    (pages / 'expectations.md').write_text(report.expectations(json.loads(text)))
    (pages / 'table.md').write_text(report.tables(json.loads(text)))
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f'{before}{BEGIN}{report.beside_peers(json.loads(text))}{END}{after}')
    FOLDER.mkdir(exist_ok=True)
    environment = ENVIRONMENTS['plots']
    environment.make()
    command = [environment.python, '-P', '-c', BOOT, str(results.absolute()), str(pages.absolute())]
    subprocess.run(command, cwd=FOLDER, check=True)
