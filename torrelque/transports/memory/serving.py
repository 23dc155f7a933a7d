"""Whose turn it is: start-time fair queueing between the lines of waiting tasks. The second half of lines.lua."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

from torrelque.errors import TorrelqueReplyError
from torrelque.transports.memory.groups import Group, forget_arrivals, keep_tag, key_of, list_of, read_turn, size
from torrelque.transports.memory.prelude import Run, microseconds, number, whole

__all__ = ('Serving',)

MORE = 20
"""Groups that are looked at beyond as many as tasks are wanted."""

_TURN = re.compile(rb'(\S+) (\S+)')
"""The time of the lines, and the finish tag of the ungrouped one."""

COSTS = {b'high': 1.0, b'': 4.0, b'low': 16.0}
"""By how much a task of each level of ungrouped ones moves the next one of that level back."""


class _Line:
    """Tasks that wait one behind the other: of a group, of a level, or (without a key) of all levels."""

    def __init__(self, tag: float, cost: float, key: bytes = b'', name: bytes = b'') -> None:
        self.tag, self.cost, self.key, self.name = tag, cost, key, name
        self.start = tag
        self.left = float('inf')
        self.at = 0
        self.is_opened = self.is_queued = self.is_broken = False
        self.taken: list[bytes] = []

    def next_id(self, run: Run) -> bytes | None:
        """The next one, counted from the front."""
        try:
            ids = run.db.list_at(self.key)
        except TorrelqueReplyError:
            if not self.name:
                raise
            self.is_broken = True
            return None
        return ids[-1 - self.at] if self.at < len(ids) else None


def is_held_by_dead(run: Run, group: Group) -> bool:
    """Whether dead letters hold a group: that may have become the default since it was placed."""
    return group.holds_dead and size(run, key_of(run, b'rejected', group.name)) > 0


class _Choice(NamedTuple):
    """An id that was picked: of which lines, and at what tags."""

    line: _Line
    tag: float
    level: _Line | None
    level_tag: float


class Serving:
    """Picks ids of lines in turn; each is then settled: it is taken or not. In the end what came of it is written."""

    def __init__(self, run: Run, n: int, *, is_strict: bool) -> None:
        self._run = run
        self._is_strict = is_strict
        fields = run.db.hash_at(run.keys['counters'])
        match = _TURN.fullmatch(fields.get(b'turn', b''))
        turn, own = [number(word, 0.0) for word in match.groups()] if match else (read_turn(run), 0.0)
        self.turn: float = turn
        words = fields.get(b'levels', b'').split(b' ')
        inner, *tags = [number(word, 0.0) if word.isdigit() else 0.0 for word in words]
        if len(tags) != len(COSTS):
            inner, tags = 0.0, [0.0] * len(COSTS)
        self._inner = inner
        self._levels = [
            _Line(max(tag, inner), COSTS[level], list_of(run, b'', level))
            for level, tag in zip(COSTS, tags, strict=True)
            if run.has_used(b'h') or not level
        ]
        self._fence = max(number(fields.get(b'fence'), 0.0), microseconds(run.now) - 1)
        self._fenced: Counter[bytes] = Counter()
        self._is_grouped = run.has_used(b'g')
        self._plain = _Line(max(own, self.turn), 1.0)
        self._queue: list[_Line] = []
        self._opened: list[_Line] = []
        self._groups: dict[bytes, Group] = {}
        self._claimed: dict[bytes, int] = {}
        self._picked: list[_Choice] = []
        self._passed: list[bytes] = []
        self._indexes: dict[bytes, tuple[bytes | None, float]] = {}
        self._seen, self._most, self._is_complete, self._bound = 0, n + 2 + MORE, not self._is_grouped, 0.0
        self.is_short: bool = False
        self._insert(self._plain)
        if self._is_grouped:
            self._read_names(n + 2)  # whether any are left

    def _insert(self, line: _Line) -> None:
        """Behind lines with the same tag, but before those that had their turn."""
        place = len(self._queue)
        while place and (
            self._queue[place - 1].tag > line.tag
            or (self._queue[place - 1].tag == line.tag and self._queue[place - 1].is_opened and not line.is_opened)
        ):
            place -= 1
        line.is_queued = True
        self._queue.insert(place, line)

    def _read_names(self, count: int) -> None:
        ready = self._run.db.zset_at(self._run.keys['groups']).ordered()[self._seen :][:count]
        self._is_complete = len(ready) < count
        self._seen += len(ready)
        for tag, name in ready:
            self._bound = tag
            self._insert(_Line(tag, 1.0, list_of(self._run, name), name))

    def _open(self, line: _Line) -> None:
        line.is_opened = True
        if not line.name:
            return
        self._opened.append(line)
        group = self._groups[line.name] = Group(self._run, line.name)
        line.cost = group.cost
        claimed = 0
        try:
            if group.slots is not None:
                claimed = len(self._run.db.set_at(key_of(self._run, b'working', line.name)))
        except TorrelqueReplyError:
            line.is_broken = True
        self._claimed[line.name] = claimed
        is_stopped = line.is_broken or is_held_by_dead(self._run, group)
        line.left = 0.0 if is_stopped else group.allowed(claimed)[0]

    def _next_level(self) -> _Line | None:
        best: _Line | None = None
        for level in self._levels:
            if best is None or (not self._is_strict and level.tag < best.tag):
                best = level if level.next_id(self._run) is not None else best
        return best

    def pick(self, count: int) -> list[bytes]:
        """Some ids, in turn."""
        ids: list[bytes] = []
        self._picked = []
        while len(ids) < count:
            line = self._queue[0] if self._queue else None
            if not self._is_complete and (
                line is None or line.tag > self._bound or (line.tag == self._bound and line.is_opened)
            ):
                if self._seen >= self._most:
                    self.is_short = True
                    break
                self._read_names(MORE)
                continue
            if line is None:
                break
            self._queue.pop(0)
            line.is_queued = False
            if not line.is_opened:
                self._open(line)
            level = None if line.name else self._next_level()
            source = line if line.name else level
            task_id = source.next_id(self._run) if source is not None and line.left >= 1 else None
            if task_id is None or source is None:
                continue
            source.at += 1
            ids.append(task_id)
            self._picked.append(_Choice(line, line.tag, level, level.tag if level else 0.0))
            line.tag, line.left = line.tag + line.cost, line.left - 1
            if level is not None:
                level.tag += level.cost
            if line.left >= 1:
                self._insert(line)
        return ids

    def name_of(self, place: int) -> bytes:
        """The group in whose list an id was."""
        return self._picked[place].line.name

    def settle(self, place: int, task_id: bytes, *, is_taken: bool) -> None:
        """An id is taken, or costs its line nothing."""
        line, tag, level, level_tag = self._picked[place]
        if is_taken:
            self.turn = max(self.turn, tag)
            if level is not None:
                self._inner = max(self._inner, level_tag)
            line.taken.append(task_id)
            return
        line.tag, line.left = line.tag - line.cost, line.left + 1
        if level is not None:
            level.tag -= level.cost
        if not line.is_queued:
            self._insert(line)

    def look_back(self) -> None:
        """Read what is to be written afterwards: where groups belong, and which tags the turn has passed."""
        run, leaving = self._run, 0
        for line in self._opened:
            group = self._groups[line.name]
            waiting = 0 if line.is_broken else size(run, line.key) - line.at
            if group.interval and line.taken:
                group.arrival = group.now + group.ahead + len(line.taken) * group.interval
            index = group.index(run, waiting, self._claimed[line.name] + len(line.taken))
            self._indexes[line.name] = index
            leaving += index[0] != b''
            if index[0] == b'blocked':
                run.db.zset_at(key_of(run, b'blocked'))
        if leaving:
            passed = run.db.zset_at(key_of(run, b'idle')).between(float('-inf'), self.turn, 2 * leaving)
            self._passed = [name for _, name in passed]

    def next_fence(self, group: bytes) -> bytes:
        """A number that is greater than that of any claim of the group before."""
        self._fenced[group] += 1
        return whole(self._fence + self._fenced[group])

    def last_fence(self) -> bytes:
        """The greatest of them; empty for none."""
        return whole(self._fence + max(self._fenced.values())) if self._fenced else b''

    def write(self) -> dict[bytes, bytes]:
        """Remove what was looked at from the lines, and place groups. Returns fields of the counters."""
        run, groups = self._run, self._run.keys['groups']
        for level in self._levels:
            run.db.rpop(level.key, level.at)
        for line in self._opened:
            self._write(line, groups)
        if any(line.taken and self._groups[line.name].interval for line in self._opened):
            forget_arrivals(run)
        if self._passed:
            run.db.zrem(key_of(run, b'idle'), self._passed)
        fields = {}
        if self._is_grouped:
            fields[b'turn'] = b'%.17g %.17g' % (self.turn, self._plain.tag)
        if run.has_used(b'h') and not self._is_strict:
            fields[b'levels'] = b' '.join(map(whole, (self._inner, *(level.tag for level in self._levels))))
        return fields

    def _write(self, line: _Line, groups: bytes) -> None:
        run, group = self._run, self._groups[line.name]
        if line.at:
            run.db.rpop(line.key, line.at)
        if line.taken:
            with suppress(TorrelqueReplyError):
                run.db.sadd(key_of(run, b'working', line.name), line.taken)
            if group.interval:
                group.save(run)
        index, score = self._indexes[line.name]
        if index == b'':
            if line.tag != line.start:
                run.db.zadd(groups, {line.name: line.tag})
            return
        run.db.zrem(groups, (line.name,))
        keep_tag(run, line.name, line.tag, self.turn)
        if index is not None:
            run.db.zadd(key_of(run, index), {line.name: score})
