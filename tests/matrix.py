"""``python -m tests.matrix [pytest arguments]``: run all of the conformance suite and print what passed where."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict

import pytest

SUITE = 'tests/transports/test_conformance.py'

# At the start of the brackets of a test's id. The tests are not imported here: pytest is to rewrite their asserts.
SETTING = re.compile(r'\[([\w-]+)/([\w+]+)/(none|\w+-\d+\.\d+)')


class Counting:
    """A plugin that counts outcomes by setting."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        setting = SETTING.search(report.nodeid)
        if setting and (report.when == 'call' or report.outcome != 'passed'):
            self.outcomes[setting.groups()][report.outcome] += 1

    def table(self) -> str:
        """A Markdown table: a line for each transport and event loop, a column for each server."""
        columns = sorted({server for _, _, server in self.outcomes}, reverse=True)
        lines = [f'| transport | loop | {" | ".join(columns)} |', f'|---|---|{"---:|" * len(columns)}']
        for client, loop in sorted({(client, loop) for client, loop, _ in self.outcomes}):
            cells = [_cell(self.outcomes.get((client, loop, server), Counter())) for server in columns]
            lines.append(f'| {client} | {loop} | {" | ".join(cells)} |')
        total = sum((outcomes for outcomes in self.outcomes.values()), Counter[str]())
        return '\n'.join([*lines, '', ', '.join(f'{count} {outcome}' for outcome, count in total.items())])


def _cell(outcomes: Counter[str]) -> str:
    bad = [f'{count} {outcome}' for outcome, count in outcomes.items() if outcome != 'passed']
    return ', '.join([str(outcomes['passed']) if outcomes else '', *bad])


def main() -> int:
    counting = Counting()
    begun = time.monotonic()
    status = pytest.main([SUITE, '-q', '--full', *sys.argv[1:]], plugins=[counting])
    print(f'\n{counting.table()}\n\n{time.monotonic() - begun:.0f} s')
    return int(status)


if __name__ == '__main__':
    sys.exit(main())
