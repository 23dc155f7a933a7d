"""A seed that fails, trimmed: as few acts, faults and accidents as will do, and the trace of what concerns the failure.

The search is delta debugging: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
Transactions on Software Engineering 28(2), 2002. Its ddmin is applied to the choices of a world, first to whole
clients, then to faults and accidents, then to single acts. A run counts as failing if it fails in the same way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from tests.simulation.choices import ACT, Choice
from tests.simulation.configs import Config
from tests.simulation.rules import Violation
from tests.simulation.world import World

__all__ = ('SECONDS', 'Failure', 'Line', 'Trimmed', 'failure_of', 'trim')

SECONDS = 60.0
"""Of the processor's time: on a machine with other work, a search has to get as far."""

SLICE = 10.0
PHASES = ('trouble', 'rest', 'drain')

TASK = re.compile(r"b'((?:t|chosen-)\d+)'")
LANE = re.compile(r'\b\d{16}\b')
CLIENT = re.compile(r'\b(?:c\d+\+*|last)')
IDLE = re.compile(r"hinted: False$|^claim .*b'[\d.]*', 0, b'[\d.]*'\]$| blocks for ")

Line = tuple[float, str]
Group = Callable[[Choice], Hashable]


@dataclass(frozen=True, slots=True)
class Failure:
    """How a world failed, after how many steps, and the choices that it had made by then."""

    error: Exception
    steps: int
    made: Sequence[Choice]

    @property
    def kind(self) -> Hashable:
        """What is the same in all runs that fail in the same way."""
        if isinstance(self.error, Violation):
            return self.error.text
        trace = self.error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        return type(self.error), trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The smallest world found that fails as a seed does: what happened in all of it, and what of that matters."""

    failure: Failure
    runs: int
    whole_lines: int
    lines: Sequence[Line]


def failure_of(
    seed: int, config: Config, only: Iterable[Choice] | None = None, trace: Callable[[float, str], object] | None = None
) -> Failure | None:
    world = World(seed, config, trace, None if only is None else frozenset(only))
    try:
        world.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
        return Failure(error, world.scheduler.steps, sorted(world.choices.made))
    return None


def trim(seed: int, config: Config, whole: Failure, seconds: float = SECONDS) -> Trimmed:
    """Look for so long at most for a smaller world that fails in the same way as this one."""
    search = _Search(seed, config, whole, time.process_time() + seconds)
    search.run()
    best = search.best
    whole_lines = len(_trace(seed, config, None))
    lines = _trace(seed, config, None if best is whole else best.made)
    return Trimmed(best, search.runs, whole_lines, _concerned(lines, best.error))


def _trace(seed: int, config: Config, only: Iterable[Choice] | None) -> list[Line]:
    lines: list[Line] = []
    failure_of(seed, config, only, lambda now, text: lines.append((now, text)))
    return lines


class _Search:
    """Replays one seed with fewer and fewer choices."""

    def __init__(self, seed: int, config: Config, whole: Failure, deadline: float) -> None:
        self.best = whole
        self.runs = 0
        self._seed = seed
        self._config = config
        self._deadline = deadline

    def run(self) -> None:
        before = None
        while before != self.best.made and time.process_time() < self._deadline:
            before = self.best.made
            self._shorten()
            self._minimise(lambda _: True, _client)
            self._fails([choice for choice in self.best.made if choice.kind == ACT])
            self._minimise(lambda choice: choice.kind != ACT, lambda choice: choice)
            self._minimise(lambda choice: choice.kind == ACT, lambda choice: choice)

    def _fails(self, only: Sequence[Choice]) -> bool:
        """Whether these choices suffice; then they, or what was made of them, are the best known."""
        if time.process_time() > self._deadline or len(only) >= len(self.best.made):
            return False
        self.runs += 1
        failure = failure_of(self._seed, self._config, only)
        if failure is None or failure.kind != self.best.kind:
            return False
        self.best = failure
        return True

    def _shorten(self) -> None:
        """Leave out all choices after some moment; by bisection, as if a failure never needed only the later ones."""
        low, made = 0, self.best.made
        high = len(made)
        while low < high:
            middle = (low + high) // 2
            if self._fails(made[:middle]):
                high = middle
            else:
                low = middle + 1

    def _minimise(self, which: Callable[[Choice], bool], group: Group) -> None:
        """Leave out groups of those choices: all, halves of them, quarters, and so on to single ones."""
        parts = 1
        while True:
            units = list(dict.fromkeys(group(choice) for choice in self.best.made if which(choice)))
            size = -(-len(units) // parts) if units else 0
            if not size:
                return
            if any(self._fails_without(units[at : at + size], which, group) for at in range(0, len(units), size)):
                parts = max(parts - 1, 1)
            elif size > 1:
                parts = min(2 * parts, len(units))
            else:
                return

    def _fails_without(self, units: Sequence[Hashable], which: Callable[[Choice], bool], group: Group) -> bool:
        out = set(units)
        return self._fails([choice for choice in self.best.made if not (which(choice) and group(choice) in out)])


def _client(choice: Choice) -> str:
    return choice.who.partition('/')[0]


def _concerned(lines: Sequence[Line], error: Exception) -> list[Line]:
    """What happened to the tasks, on the lanes and to the clients that the error names, or to all if it names none.

    Waits that ended without a hint and claims that got nothing matter in the last slice only.
    """
    last = lines[-1][0] if lines else 0.0
    lines = [(now, text) for now, text in lines if now > last - SLICE or not IDLE.search(text)]
    names = {f"\\b{re.escape(name)}'" for name in TASK.findall(str(error))}
    names.update(LANE.findall(str(error)))
    if not names:
        return lines
    concerned = re.compile('|'.join(names))
    clients = {client for _, text in lines if concerned.search(text) for client in CLIENT.findall(text)}
    return [(now, text) for now, text in lines if concerned.search(text) or _tells_of(text, clients)]


def _tells_of(text: str, clients: set[str]) -> bool:
    """Whether this is about one of the clients, or all, and not a call."""
    return '(' not in text and bool(text in PHASES or clients & set(re.findall(r'[\w+]+', text)))
