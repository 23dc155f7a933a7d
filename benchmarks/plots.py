"""Draws the results, as PNG and SVG; runs in an environment of its own that has matplotlib.

Started as ``python -P -c BOOT RESULTS FOLDER``; see `publishing`.
"""

# pyright: reportMissingImports=false
# matplotlib is installed in an environment of its own, not where types are checked.

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use('Agg')
from matplotlib import pyplot as plt

from benchmarks.plan import DEPTH_ROWS, PIP
from benchmarks.report import TITLES, Results, Subject, grouped, named, quantile, rate, server_us

SPEED_ROWS = ('enqueue-single', 'enqueue-100', 'work-off', 'lifecycle-single', 'lifecycle-100', 'floor')
CURVE_POINTS = 200
COLOURS = {'current': 'tab:blue', 'before': 'lightblue', 'published': 'tab:red', 'raw': 'black'}
PEERS = {'arq': 'olive', 'bullmq': 'orange', 'dramatiq': 'pink', 'saq': 'green', 'streaq': 'purple', 'taskiq': 'brown'}
STYLES = {'native': '-', 'streams': '-', 'redis_py': '--', 'coredis': ':'}


def throughput(results: Results) -> Any:  # noqa: ANN401 - untyped where types are checked
    """Bars: medians, with lines from the least to the greatest."""
    figure, panels = plt.subplots(3, 2, figsize=(11, 12), layout='constrained')
    for row, panel in zip(SPEED_ROWS, panels.flat, strict=True):
        groups = {subject: entries for subject, entries in grouped(results, row).items() if subject.server == PIP}
        if not groups:
            panel.set_axis_off()
            continue
        values = [[rate(entry) for entry in entries] for entries in groups.values()]
        middles = [median(rates) for rates in values]
        spread = [
            [middle - min(rates) for middle, rates in zip(middles, values, strict=True)],
            [max(rates) - middle for middle, rates in zip(middles, values, strict=True)],
        ]
        colours = [COLOURS.get(subject.system, 'tab:gray') for subject in groups]
        panel.barh([_label(subject) for subject in groups], middles, xerr=spread, color=colours, ecolor='black')
        panel.invert_yaxis()
        panel.tick_params(labelsize=8)
        panel.set_title(TITLES[row], fontsize=9)
        panel.set_xlabel('tasks/s', fontsize=8)
    return figure


def latency(results: Results) -> Any:  # noqa: ANN401
    """How many of the hand-offs took at most so long."""
    return _curves(results, 'hand-off', 'ms from the enqueue call to the start of the handler')


def delays(results: Results) -> Any:  # noqa: ANN401
    """How many of the delayed tasks started at most so late."""
    return _curves(results, 'delayed', 'ms from the time at which the task is due to the start of the handler')


def depth(results: Results) -> Any:  # noqa: ANN401
    """Server CPU of a lifecycle beside more and more tasks."""
    figure, panel = plt.subplots(figsize=(8, 5), layout='constrained')
    for row in DEPTH_ROWS:
        for subject, entries in grouped(results, row).items():
            found: dict[int, list[float]] = {}
            for entry in entries:
                for point in entry['points']:
                    found.setdefault(point['depth'], []).append(server_us(point))
            depths = sorted(found)
            middles = [median(found[depth]) for depth in depths]
            below = [median(found[depth]) - min(found[depth]) for depth in depths]
            above = [max(found[depth]) - median(found[depth]) for depth in depths]
            label = f'{named(subject)[0]}, {row.partition("-")[2]} tasks'
            panel.errorbar(depths, middles, yerr=[below, above], marker='o', capsize=4, label=label)
    panel.set_xscale('log')
    panel.set_ylim(bottom=0)
    panel.set_xlabel('tasks in the queue')
    panel.set_ylabel('server CPU of a lifecycle, µs')
    panel.legend()
    panel.grid(alpha=0.3)
    return figure


def _curves(results: Results, row: str, label: str) -> Any:  # noqa: ANN401
    figure, panel = plt.subplots(figsize=(9, 5.5), layout='constrained')
    for subject, entries in grouped(results, row).items():
        if subject.server != PIP or (subject.loop == 'asyncio' and subject.system in COLOURS):
            continue  # as uvloop, a little later: the table has it
        pooled = sorted(value for entry in entries for value in entry['latencies_ms'])
        parts = [number / CURVE_POINTS for number in range(CURVE_POINTS + 1)]
        style = STYLES.get(subject.client, '-') if subject.system in COLOURS else '-.'
        colour = COLOURS.get(subject.system) or f'tab:{PEERS[subject.system]}'
        if subject.loop == 'trio':
            colour = 'tab:gray' if subject.system == 'raw' else 'tab:cyan'
        panel.plot([quantile(pooled, part) for part in parts], parts, style, color=colour, label=_label(subject))
    panel.set_xscale('log')
    panel.set_xlabel(label)
    panel.set_ylabel('part of the tasks')
    if panel.get_lines():
        panel.legend(fontsize=8)
    panel.grid(alpha=0.3, which='both')
    return figure


def _label(subject: Subject) -> str:
    return ' / '.join(named(subject))


def draw(results: Results, folder: Path) -> None:
    """Write all plots; the same results give the same files."""
    plt.rcParams['svg.hashsalt'] = 'torrelque'
    plt.rcParams['svg.fonttype'] = 'none'
    for plot in (throughput, latency, delays, depth):
        figure = plot(results)
        figure.savefig(folder / f'{plot.__name__}.png', dpi=100, metadata={'Software': None})
        figure.savefig(folder / f'{plot.__name__}.svg', metadata={'Date': None})
        plt.close(figure)


def main(words: Sequence[str]) -> None:
    results, folder = words
    draw(json.loads(Path(results).read_text()), Path(folder))


if __name__ == '__main__':
    main(sys.argv[1:])
