"""What the server may do to tasks: each call is judged by what was before it and what is after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tests.simulation.server import NOWHERE, ObservedShard, View
from torrelque.core.protocol import Arg, Call, Reply, Script
from torrelque.errors import TorrelqueReplyError

if TYPE_CHECKING:
    from tests.simulation.scheduling import ScheduleRules

__all__ = ('Args', 'Changes', 'ClaimRecord', 'Key', 'Rules', 'Violation', 'items_of', 'require', 'tasks_of')

Key = tuple[bytes, bytes, int]
"""A receipt: id, token, dequeue_count."""

Changes = Mapping[bytes, tuple[View, View]]
Args = Sequence[bytes]

PENDING, WORKING, DELAYED, COMPLETED, REJECTED, EXPIRED = b'0', b'1', b'2', b'3', b'4', b'5'
EXPIRY, REQUESTS = b'e', b'c'
"""Letters of features."""
_OF_CLAIMS = (b'claim', b'dequeue_count', b'last_dequeue_time', b'revision')
LANED = frozenset(
    (
        'enqueue',
        'claim',
        'release',
        'requeue',
        'reject',
        'giveback',
        'progress',
        'cancel',
        'redrive',
        'purge',
        'flow',
        'regulate',
        'schedule',
    )
)
TAKEN_BACK = frozenset(('claim', 'tick', 'sweep', 'bare', 'legacy', 'cancel'))
"""How a claim may end that its holder did not end: stale, or at the hands of somebody who knew the plain id."""


class Violation(AssertionError):  # noqa: N818 - that is the word for it
    """A property does not hold: ``text`` tells which, ``details`` of what."""

    def __init__(self, text: str, *details: object) -> None:
        super().__init__(' '.join([text, *map(repr, details)]))
        self.text = text
        self.details = details


def require(condition: bool, text: str, *details: object) -> None:
    if not condition:
        raise Violation(text, *details)


class ClaimRecord:
    """A claim that the server made: how it ended, and whether a caller ever got it."""

    __slots__ = ('base', 'delivered', 'ended', 'incarnation', 'legacy', 'limit', 'made', 'returned', 'uncounted')

    def __init__(self, made: float, incarnation: int, limit: int | None, base: int, *, legacy: bool) -> None:
        self.made = made
        self.legacy = legacy  # made by 0.9, over a token that 1.0 left behind
        self.incarnation = incarnation
        self.limit = limit
        self.base = base  # the deliveries that do not count against the limit
        self.ended: str | None = None
        self.returned = False  # to be claimed again
        self.delivered = False
        self.uncounted = False  # by who requeued it


class Rules:
    """Judges calls to one shard, or to a queue without. ``legacy``: 0.9 takes part, which leaves things behind."""

    def __init__(self, server: ObservedShard, clock: Callable[[], float], *, legacy: bool) -> None:
        self._server = server
        self._clock = clock
        self._legacy = legacy
        self.shadow: dict[bytes, View] = {}
        self.claims: dict[Key, ClaimRecord] = {}
        self.incarnations: dict[bytes, int] = {}
        self.handed_out: dict[tuple[bytes, int], int] = {}  # by id and incarnation: deliveries not given back
        self.redrives: Counter[bytes] = Counter()  # by payload
        self.replaced: Counter[bytes] = Counter()
        self.tally: Counter[str] = Counter()
        self.last_claim = 0.0
        self._last_added: dict[bytes, bytes] = {}  # by schedule: the id of its last task
        self.trimmed = 0
        self.counters_lost = False  # and which features were used, until they are used again
        self._answers: dict[tuple[bytes, ...], Reply] = {}
        self._undone: set[tuple[bytes, ...]] = set()
        self.on_claim: Callable[[Sequence[bytes], float], None] = lambda *_: None
        self.on_return: Callable[[bytes], None] = lambda _: None
        self.on_call: Callable[[str, Args, Any, Changes, float], None] = lambda *_: None
        self.on_fire: ScheduleRules | None = None
        self._verbs: Mapping[str, Callable[[Args, Any, Changes], set[bytes]]] = {
            'enqueue': self._enqueue,
            'claim': self._claim,
            'release': self._release,
            'requeue': self._requeue,
            'reject': self._reject,
            'giveback': self._giveback,
            'progress': self._progress,
            'cancel': self._cancel,
            'redrive': self._redrive,
            'purge': self._purge,
            'repair': self._repair,
            'extend': self._extend,
            'settle': self._settle,
            'tick': self._tick,
            'sweep': self._sweep,
            'undequeue': self._undequeue,
            'flow': self._flow,
            'regulate': lambda *_: set(),  # no task is touched
            'schedule': self._schedule,
        }

    @property
    def server(self) -> ObservedShard:
        """The shard."""
        return self._server

    @property
    def parts(self) -> Sequence[Rules]:
        """Those of each shard."""
        return (self,)

    # Judging -----------------------------------------------------------------

    def judge(self, call: Call[Any], reply: Reply) -> None:
        """A call of 1.0 was executed."""
        changes = self._changes()
        if not isinstance(call.command, Script):
            require(not changes, 'a plain command changed tasks', call, changes)
            return
        name = call.command.name
        if isinstance(reply, TorrelqueReplyError):
            require(reply.code == 'NEWER' and self._server.newer, 'the server refused', name, reply)
        if self._server.newer:
            require(not changes, 'changed tasks of a later version', name, changes)
        if isinstance(reply, TorrelqueReplyError):
            return
        args = [_word(arg) for arg in call.args]
        allowed: set[bytes] = set()
        if name not in LANED or not args[0]:
            verb = self._verbs.get(name)
            allowed = verb(args, reply, changes) if verb else set()
        elif reply[0] == b'OK':
            allowed = self._laned(name, args, reply, changes)
        self._only(name, changes, allowed)
        self._end_claims(name, changes)
        self.on_call(name, args, reply, changes, self._clock())

    def judge_legacy(self, ids: set[bytes] | None) -> None:
        """0.9 did something to these ids; None: it swept."""
        changes = self._changes()
        for task_id, (old, new) in changes.items():
            if ids is None:
                require(new.pending == 1 and old.pending == 0, '0.9 swept away', task_id, old, new)
        if ids is not None:
            self._only('0.9', changes, ids)
        for task_id, (old, new) in changes.items():
            if old.payload is None and new.payload is not None:
                self._count_incarnation(task_id)
            if new.receipt is not None and new.receipt != old.receipt:
                self._begin_claim(task_id, new, legacy=True)
        self._end_claims('legacy', changes)

    def check_all(self) -> None:
        """Everything that was seen of all tasks is still so."""
        self._changes()
        for task_id, known in self.shadow.items():
            view = self._server.view(task_id)
            require(view == known, 'a task changed unseen', task_id, known, view)
            self._check_view(task_id, view)

    def _changes(self) -> Changes:
        changes = {}
        for task_id in self._server.take_touched():
            old, new = self.shadow.get(task_id, NOWHERE), self._server.view(task_id)
            if old == new:
                continue
            self.shadow[task_id] = new
            self._check_view(task_id, new)
            if not (old.payload is None and old.expires and new == NOWHERE):  # a result's time was over
                changes[task_id] = (old, new)
        return changes

    def _check_view(self, task_id: bytes, view: View) -> None:
        """Conservation: a task is in exactly one place, what is no task is nowhere, and its state agrees."""
        status = view.state.get(b'status')
        if view.payload is None:
            require(view.places() == 0, 'an id without a task', task_id, view)
            over = view.expires and status in (COMPLETED, REJECTED, EXPIRED)
            require(not view.state or over, 'a state left', task_id, view)
            return
        require(view.places() == 1, 'a task that is not in one place', task_id, view)
        require(not view.expires, 'a task whose state will expire', task_id, view)
        require(b'timeout' in view.state, 'a task without a state', task_id, view)
        expected = (
            WORKING if view.working is not None
            else DELAYED if view.delayed is not None
            else REJECTED if view.rejected is not None
            else PENDING
        )  # fmt: skip
        require(status == expected, 'a task whose status is of another place', task_id, view)
        if not self._legacy:
            require((b'claim' in view.state) == (view.working is not None), 'a token out of place', task_id, view)
            told = view.mark is None or (view.mark.deadline, view.mark.dequeue_count) == (
                view.working,
                view.dequeue_count,
            )
            require(told, 'a claim that contradicts its task', task_id, view)

    def _only(self, name: str, changes: Changes, allowed: set[bytes]) -> None:
        for task_id, (old, new) in changes.items():
            require(task_id in allowed, 'changed a task that it should not:', name, task_id, old, new)

    def _before(self, task_id: bytes, changes: Changes) -> View:
        return changes[task_id][0] if task_id in changes else self.shadow.get(task_id, NOWHERE)

    def _after(self, task_id: bytes) -> View:
        return self.shadow.get(task_id, NOWHERE)

    # Claims ------------------------------------------------------------------

    def _count_incarnation(self, task_id: bytes) -> None:
        self.incarnations[task_id] = self.incarnations.get(task_id, 0) + 1

    def _begin_claim(self, task_id: bytes, view: View, *, legacy: bool = False) -> None:
        assert view.receipt is not None
        key = (task_id, *view.receipt)
        require(key not in self.claims, 'a claim came to life again', key)
        limit = view.state.get(b'max_dequeues')
        self.claims[key] = ClaimRecord(
            self._clock(),
            self.incarnations.get(task_id, 0),
            None if limit is None else int(limit),
            _base(view),
            legacy=legacy,
        )

    def _end_claims(self, name: str, changes: Changes) -> None:
        for task_id, (old, new) in changes.items():
            if old.receipt is None or old.receipt == new.receipt:
                continue
            claim = self.claims[(task_id, *old.receipt)]
            claim.ended = claim.ended or name
            claim.returned = new.payload is not None and new.rejected is None
            require(name != 'settle' or not claim.delivered, 'undid a claim that was handed out', task_id, old, new)
            if name == 'giveback' and claim.delivered:
                self.handed_out[task_id, claim.incarnation] -= 1

    # Calls on lanes ----------------------------------------------------------

    def _laned(self, name: str, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        """Safe to repeat: a call is done once, and answers as the first did."""
        lane = tuple(args[:3])
        require(lane not in self._undone, 'a call was done after it was said to be undone:', name, lane)
        first = self._answers.get(lane)
        if first is None:
            self._answers[lane] = reply
            return self._verbs[name](args, reply, changes)
        if name != 'claim':
            require(reply == first, 'a repeat was answered differently', name, reply, first)
        elif len(reply) > 4:
            answered, before = tasks_of(reply), tasks_of(first)
            require(answered.keys() <= before.keys(), 'a repeated claim answered other tasks', reply, first)
            for task_id, (payload, count, _, _, attempt, *more) in answered.items():
                told, now = before[task_id], self._after(task_id)
                require(
                    (payload, count, attempt, *more) == (*told[:2], *told[4:]) and now.receipt == (_token(args), count),
                    'a repeated claim answered a task that is not its own any more', task_id, now,
                )  # fmt: skip
        else:
            require(reply[2] == 1, 'a repeated claim answered nothing, and did not say so', reply)
        return set()

    def _settle(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        lane = tuple(args[:3])
        if reply[0] == b'finished':
            first = self._answers.get(lane)
            same = first is not None and first[1:] == reply[1:]
            require(same, 'settled as finished with another answer', reply, first)
        if reply[0] != b'aborted':
            return set()
        self._undone.add(lane)
        claims = {
            task_id: (_token(args), count) for task_id, (_, count, *_) in tasks_of(self._answers.get(lane, ())).items()
        }
        mine = {task_id for task_id, (old, _) in changes.items() if old.receipt == claims.get(task_id, b'')}
        for task_id in mine:
            self._check_given_back(task_id, *changes[task_id])
        for task_id, receipt in claims.items():
            require(self._after(task_id).receipt != receipt, 'settled, but still claimed', task_id)
        return mine

    # Verbs: each returns the ids that it may have changed ----------------------

    def _enqueue(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        """One task an id: each item is answered as if it was alone, and the last one that is done counts."""
        done: dict[bytes, Args] = {}
        moved: set[bytes] = set()
        for letter, item in zip(reply[1], items_of(args, 6, 4), strict=True):
            task_id, old = item[0], self._before(item[0], changes)
            expected = _replacing(item, old, moved) if item[6:7] not in ([], [b'']) else b'e'
            if old.payload is None and task_id not in done:
                expected = b'u' if item[6:7] == [b'only'] else b'n'
            require(letter in expected, 'enqueue answered wrongly', task_id, chr(letter), expected)
            if letter in b'nr':
                done[task_id] = item
        for task_id, (_, payload, _, delay, *more) in done.items():
            line = (*more[5:7], b'', b'')[:2]
            view, old = self._after(task_id), self._before(task_id, changes)
            placed = view.delayed is not None if delay else view.pending == 1
            placed = placed or (view.dequeueing == 1 and not delay)
            clean = not {b'claim', b'result', b'dequeue_count', b'release_time', b'dequeue_base'} & view.state.keys()
            told = (view.state.get(b'group', b''), view.state.get(b'level', b'')) == line
            require(view.payload == payload and placed and clean and told, 'enqueued wrongly', task_id, view)
            expires = more[3] if len(more) > 3 else b''
            require((view.expiry is not None) == bool(expires), 'expires, or not, as nobody wants it', task_id, view)
            if expires:
                off = abs((view.expiry or 0) - self._clock() - float(expires))
                require(off < 1e-5, 'expires at another time', task_id, view)
            self._check_delay(task_id, view)
            self._count_incarnation(task_id)
            if old.payload is not None:
                require(view.revision == old.revision + 1, 'replaced without a transition', task_id, old, view)
                self.replaced[old.payload] += 1
        return set(done)

    def _claim(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        now = self._clock() + 1e-6
        gone, changes = self._trimmed(args[5:], changes)
        taken = tasks_of(reply)
        changes, added = self._scheduled(changes, taken)
        require(len(taken) <= int(args[3]), 'claimed more than was asked for', taken)
        for task_id, (payload, count, deadline, headers, attempt, *_) in taken.items():
            old, new = self._before(task_id, changes), self._after(task_id)
            there = old.pending or any(score is not None and score <= now for score in (old.working, old.delayed))
            require(bool(there), 'claimed what was not available', task_id, old)
            require(old.receipt is None or old.receipt != new.receipt, 'claimed twice over', task_id)
            right = new.receipt == (_token(args), count) and count == old.dequeue_count + 1
            require(right, 'claimed wrongly', task_id, old, new)
            require(new.payload == payload and new.working == deadline, 'answered otherwise', task_id, new)
            require(new.state.get(b'headers', b'') == headers, 'answered other headers', task_id, headers)
            require(attempt == new.attempt, 'told of another attempt', task_id, attempt, new)
            require(not _exhausted(old), 'claimed beyond its limit', task_id, old)
            require(not self._late(old), 'claimed after it expired', task_id, old)
            self._begin_claim(task_id, new)
        if taken:
            self.last_claim = self._clock()
            require(not self._server.paused(self._clock()), 'claimed during a pause', taken)
            self.on_claim(list(taken), self._clock())
        others = {task_id: change for task_id, change in changes.items() if task_id not in taken}
        for task_id, (old, new) in others.items():
            if old.pending:
                require(self._ended(task_id, old, new), 'a claim put away', task_id, old, new)
        self._returned({task_id: change for task_id, change in others.items() if not change[0].pending})
        return set(changes) | gone | added

    def _scheduled(self, changes: Changes, taken: Collection[bytes]) -> tuple[Changes, set[bytes]]:
        """Schedules add tasks before all else.

        Returns the other changes, where those that were taken look as if they had been pending, and the added ids.
        """
        added = {task_id for task_id, (old, new) in changes.items() if old.payload is None and new.payload is not None}
        slots: dict[bytes, list[float]] = {}
        others = dict(changes)
        if added:
            self.last_claim = self._clock()  # it may take a while to make up for what was missed
        for task_id in added:
            new = changes[task_id][1]
            name, at, slot = task_id.rpartition(b'@')
            require(bool(at) and self.on_fire is not None, 'a claim added a task', task_id)
            slots.setdefault(name, []).append(float(slot))
            self._count_incarnation(task_id)
            state = {field: value for field, value in new.state.items() if field not in _OF_CLAIMS}
            others[task_id] = View(new.payload, pending=1, state=state), new
            if task_id not in taken:
                del others[task_id]
        for name, times in slots.items():
            schedule = self._server.schedule(name)
            assert self.on_fire is not None
            self.on_fire.fired(
                name,
                schedule,
                sorted(times),
                self._clock(),
                self._last_of(name, changes),
                lambda task_id: self._before(task_id, changes).payload is not None,
            )
            self._last_added[name] = schedule.get(b'last', b'')
        return others, added

    def _last_of(self, name: bytes, changes: Changes) -> View | None:
        """The task that a schedule added before, if it was still queued."""
        view = self._before(self._last_added.get(name, b''), changes)
        return view if view.payload is not None and view.rejected is None else None

    def _schedule(self, args: Args, reply: Any, changes: Changes) -> set[bytes]:  # noqa: ANN401 - by its mode
        """A schedule is kept or removed, or adds one task by hand."""
        name, mode, *words = args[3:]
        if self.on_fire is not None:
            self.on_fire.look(self._clock())
        if mode != b'fire':
            if mode != b'refill' and self.on_fire is not None and reply[1] in (b'n', b'r', b'o'):
                timing = (words[1], words[3]) if mode == b'set' else None
                self.on_fire.changed(name, timing, self._clock())
                if reply[1] == b'n':
                    self._last_added.pop(name, None)
            return set()
        if reply[1] != b'o':
            return set()
        (task_id,) = changes
        require(task_id.startswith(name + b'@'), 'fired otherwise', task_id, words)
        self._count_incarnation(task_id)
        self._last_added[name] = task_id
        return {task_id}

    def _tick(self, args: Args, reply: object, changes: Changes) -> set[bytes]:
        gone, others = self._trimmed(args[2:], changes)
        return self._returned(others) | gone

    def _sweep(self, args: Args, reply: object, changes: Changes) -> set[bytes]:
        gone, others = self._trimmed(args[1:], changes)
        if args[0] == b'expired':
            for task_id, (old, new) in others.items():
                late = old.pending > 0 and self._late(old)
                require(late and self._ended(task_id, old, new), 'swept away', task_id, old, new)
            return set(changes)
        return self._returned(others) | gone

    def _trimmed(self, cap: Args, changes: Changes) -> tuple[set[bytes], Changes]:
        """Dead letters beyond the cap are removed, the oldest first, and as many as were added and 20 at the most.

        Returns those that were there before, and the other changes: those added are seen as if they were still there.
        """
        vanished = {
            task_id
            for task_id, (old, new) in changes.items()
            if old.payload is not None and new == NOWHERE and not (old.rejected is None and b'cancel_time' in old.state)
        }
        buried = [
            task_id
            for task_id, (old, new) in changes.items()
            if old.rejected is None and (new.rejected is not None or task_id in vanished)
        ]
        if not buried:
            require(not vanished, 'removed without reason', vanished)
            return set(), changes
        letters = {**self._server.rejected(), **dict.fromkeys(buried, float(f'{self._clock():.6f}'))}
        letters |= {task_id: score for task_id in vanished if (score := changes[task_id][0].rejected) is not None}
        surplus = len(letters) - int(cap[0]) if cap and cap[0] else 0
        oldest = sorted(letters, key=lambda task_id: (letters[task_id], task_id))
        expected = set(oldest[: max(0, min(surplus, len(buried) + 20))])
        require(vanished == expected, 'removed other dead letters than the oldest beyond the cap', vanished, expected)
        self.trimmed += len(vanished)
        seen = {
            task_id: (old, old._replace(working=None, delayed=None, pending=0, rejected=letters[task_id]))
            for task_id, (old, _) in changes.items()
            if task_id in vanished and old.rejected is None
        }
        return vanished - seen.keys(), {
            task_id: seen.get(task_id, change)
            for task_id, change in changes.items()
            if task_id not in vanished - seen.keys()
        }

    def _returned(self, changes: Changes) -> set[bytes]:
        """Stale claims and due tasks went back to pending, or to the dead letters."""
        now = self._clock() + 1e-6
        for task_id, (old, new) in changes.items():
            stale = old.working is not None and old.working <= now
            due = old.delayed is not None and old.delayed <= now
            require(stale or due, 'took what was neither stale nor due', task_id, old, new)
            if not (self._is_called_off(task_id, old, new) or self._ended(task_id, old, new)):
                back = new.pending == 1 and new.dequeue_count == old.dequeue_count
                require(back, 'returned wrongly', task_id, old, new)
        return set(changes)

    def _heeds(self, feature: bytes) -> bool:
        return self._server.has_used(feature) or not self.counters_lost

    def _late(self, view: View) -> bool:
        return self._heeds(EXPIRY) and view.expiry is not None and view.expiry <= float(f'{self._clock():.6f}')

    def _ended(self, task_id: bytes, old: View, new: View) -> bool:
        """Whether a task ends whose turn has come: at its limit as a dead letter, even if it has expired."""
        if _exhausted(old):
            dead = new.rejected is not None and new.state.get(b'reason') != b'expired'
            require(dead, 'beyond its limit, but no dead letter', task_id, old, new)
            return True
        if not self._late(old):
            return False
        if old.state.get(b'on_expiry') == b'reject':
            told = new.state.get(b'reason') == b'expired' and new.payload == old.payload
            trimmed = self._after(task_id) == NOWHERE
            require(new.rejected is not None and (told or trimmed), 'expired, but no dead letter', task_id, old, new)
        else:
            gone = new.payload is None and new.expires and new.state.get(b'status') == EXPIRED
            require(gone, 'expired, but not gone', task_id, old, new)
        self.tally['expired'] += 1
        return True

    def _check_delay(self, task_id: bytes, view: View) -> None:
        due = view.delayed is None or view.expiry is None or view.delayed <= view.expiry
        require(due or not self._heeds(EXPIRY), 'due after it has expired', task_id, view)

    def _claimed(
        self, args: Args, width: int, letters: Sequence[int], changes: Changes, *, shared: int = 0, keeps: bool = False
    ) -> list[tuple[bytes, Args, View, View]]:
        """Fencing: who acts for a claim does so only while it is the live one. Returns the items that were done.

        A claim that is named again is live still if the verb ``keeps`` claims.
        """
        done: dict[bytes, tuple[bytes, Args, View, View]] = {}
        for letter, (task_id, token, count, *more) in zip(letters, items_of(args, width, shared), strict=True):
            old = self._before(task_id, changes)
            live = old.working is not None and (not token or old.receipt == (token, int(count)))
            expected = b'o' if live and (keeps or task_id not in done) else b'l' if token else b'u'
            require(letter == expected[0], 'a receipt was taken wrongly', task_id, token, count, chr(letter), old)
            if letter == ord('o'):
                done[task_id] = (task_id, more, old, self._after(task_id))
                if not token and old.receipt is not None:
                    self.claims[(task_id, *old.receipt)].ended = 'bare'
        return list(done.values())

    def _release(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        done = self._claimed(args, 6, reply[1], changes, shared=3)
        for task_id, (status, ttl, result), _, new in done:
            told = None if ttl.startswith(b'-') else result
            kept = new.expires and (new.state.get(b'result'), new.state.get(b'status')) == (told, status)
            require(new.payload is None and (kept if ttl else not new.state), 'released wrongly', task_id, new)
        return {task_id for task_id, *_ in done}

    def _requeue(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        done = self._claimed(args, 7, reply[1], changes)
        for task_id, (delay, _, uncounted, hold), old, new in done:
            if self._is_called_off(task_id, old, new):
                continue
            group = old.state.get(b'group', b'')
            keeps_place = bool(group) and (
                (hold == b'group' and delay) or (hold != b'pass' and self._server.is_ordered(group))
            )
            placed = new.delayed is not None if delay and not keeps_place else new.pending == 1
            require(placed and new.dequeue_count == old.dequeue_count, 'requeued wrongly', task_id, old, new)
            require(new.attempt == old.attempt - bool(uncounted), 'counted wrongly', task_id, old, new)
            claim = self.claims.get((task_id, *old.receipt)) if old.receipt and uncounted else None
            if claim is not None:
                claim.uncounted = True
                self.handed_out[task_id, claim.incarnation] -= claim.delivered
            require(new.expiry == old.expiry, 'expires at another time', task_id, old, new)
            self._check_delay(task_id, new)
        return {task_id for task_id, *_ in done}

    def _reject(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        gone, others = self._trimmed(args[7:8], changes)
        done = self._claimed(args, 5, reply[1], others)
        for task_id, (reason, _), old, new in done:
            told = new.state.get(b'reason') == reason and new.payload == old.payload
            kept = new.rejected is not None and told
            removed = new == NOWHERE and others[task_id][1].rejected is not None
            require(kept or removed, 'rejected wrongly', task_id, old, new)
            require(b'cancel_time' not in new.state, 'rejected, and to be cancelled', task_id, new)
        return {task_id for task_id, *_ in done} | gone

    def _giveback(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        done = self._claimed(args, 3, reply[1], changes)
        for task_id, _, old, new in done:
            self._check_given_back(task_id, old, new)
        return {task_id for task_id, *_ in done}

    def _is_called_off(self, task_id: bytes, old: View, new: View) -> bool:
        """What its holder was asked to cancel goes nowhere but away."""
        if self._heeds(REQUESTS) and b'cancel_time' in old.state:
            require(new == NOWHERE, 'delivered again although it was called off', task_id, old, new)
            return True
        return False

    def _check_given_back(self, task_id: bytes, old: View, new: View) -> None:
        if self._is_called_off(task_id, old, new):
            return
        back = new.pending == 1 and new.dequeue_count == old.dequeue_count - 1
        require(back, 'given back wrongly', task_id, old, new)
        require(b'claim' not in new.state, 'given back with its token', task_id, new)
        self.on_return(task_id)

    def _extend(self, args: Args, reply: Sequence[bytes], changes: Changes) -> set[bytes]:
        letters = [answer[0] if answer in (b'l', b'u', b'x') else ord('o') for answer in reply]
        done = self._claimed(args, 4, letters, changes, keeps=True)
        asked = {item[0] for item, answer in zip(items_of(args, 4), reply, strict=True) if answer.startswith(b'a')}
        for task_id, _, old, new in done:
            called_off = self._heeds(REQUESTS) and b'cancel_time' in old.state
            require((task_id in asked) == called_off, 'told otherwise of a request', task_id, old)
            require(
                old.working is not None and new.working is not None and new.working >= old.working, 'a lease shrank'
            )
            require(new.receipt == old.receipt, 'extended into another claim', task_id, old, new)
        return {task_id for task_id, *_ in done}

    def _progress(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        done = self._claimed(args, 4, reply[1], changes, keeps=True)
        for task_id, (text,), old, new in done:
            require(new._replace(state={}) == old._replace(state={}), 'progress moved a task', task_id, old, new)
            noted, claim = new.state.get(b'progress', b''), old.mark.token if old.mark else b''
            require(noted.endswith(b' ' + text), 'noted otherwise', task_id, noted, text)
            require(noted.startswith(b'%b %d ' % (claim, old.dequeue_count)), 'noted for another', noted, claim)
        return {task_id for task_id, *_ in done}

    def _cancel(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        task_id, running = args[3:5]
        old, new = self._before(task_id, changes), self._after(task_id)
        here = old.pending > 0 or old.delayed is not None
        claimed = old.working is not None and running != b''
        expected = b'o' if here else b'c' if claimed else b'u'
        require(reply[1] == expected, 'cancel answered wrongly', task_id, reply, old)
        if claimed and running == b'ask':
            require(new._replace(state={}) == old._replace(state={}), 'a request moved a task', task_id, old, new)
            require(b'cancel_time' in new.state and new.receipt == old.receipt, 'asked for wrongly', task_id, old, new)
        elif here or claimed:
            require(new == NOWHERE, 'cancelled wrongly', task_id, new)
        return {task_id} if here or claimed else set()

    def _redrive(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        done: set[bytes] = set()
        for letter, (task_id,) in zip(reply[1], items_of(args, 1), strict=True):
            old, new = self._before(task_id, changes), self._after(task_id)
            dead = old.rejected is not None and task_id not in done
            require(letter == b'uo'[dead], 'redrive answered wrongly', task_id, chr(letter), old)
            if not dead:
                continue
            done.add(task_id)
            require(new.pending == 1 and new.payload == old.payload, 'redriven wrongly', task_id, old, new)
            require(_base(new) == new.dequeue_count == old.dequeue_count, 'not counted from 0', task_id, old, new)
            clean = not {b'claim', b'reason', b'release_time', b'expires', b'on_expiry'} & new.state.keys()
            require(clean, 'redriven with a trace of its end', task_id, new)
            assert old.payload is not None
            self._count_incarnation(task_id)
            self.redrives[old.payload] += 1
        return done

    def _purge(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        done: set[bytes] = set()
        for letter, (task_id, before) in zip(reply[1], items_of(args, 2), strict=True):
            score = self._before(task_id, changes).rejected
            dead = score is not None and task_id not in done and (not before or score <= float(before))
            require(letter == b'uo'[dead], 'purge answered wrongly', task_id, before, chr(letter), score)
            if dead:
                done.add(task_id)
                require(self._after(task_id) == NOWHERE, 'purged wrongly', task_id, self._after(task_id))
        return done

    def _repair(self, args: Args, reply: int, changes: Changes) -> set[bytes]:
        """Nothing is ever wrong here, but that a hint is left when no task is, and that features are forgotten."""
        if args[0] == b'ignored' and self.counters_lost:
            return set()
        require(not reply or args[0] == b'leftover', 'repaired what was whole', args, changes)
        require(not reply or not self._server.tasks(), 'took for a leftover what was in use', args)
        return set()

    def _flow(self, args: Args, reply: Sequence[Any], changes: Changes) -> set[bytes]:
        """The queue is paused, or it is not, or its limits are set, and no task is touched."""
        if args[3] in (b'pause', b'resume') and reply[1] == b'o':
            paused = self._server.paused(self._clock())
            require(paused == (args[3] == b'pause'), 'paused or resumed wrongly', args)
        return set()

    def _undequeue(self, args: Args, reply: int, changes: Changes) -> set[bytes]:
        for task_id, (old, new) in changes.items():
            require(old.dequeueing == 1 and new.pending == 1, 'a sweep moved', task_id, old, new)
        require(reply == len(changes), 'a sweep counted wrongly', reply, changes)
        return set(args[2 : 2 + int(args[0])])


def _word(arg: Arg) -> bytes:
    return arg if isinstance(arg, bytes) else str(arg).encode()


def _token(args: Args) -> bytes:
    return b':'.join(args[:3])


def items_of(args: Args, width: int, shared: int = 0) -> list[Args]:
    """The arguments of each item.

    ``shared``: as many of the words of each item may come once, in front of all. Some may have more words.
    """
    if not shared:
        return [args[at : at + width] for at in range(3, len(args), width)]
    own = int(args[3])
    if own >= width:
        return [args[at : at + own] for at in range(4, len(args) - own + 1, own)]
    first, common, rest = width - shared, args[4 : 4 + shared], args[4 + shared :]
    items = [rest[at : at + own] for at in range(0, len(rest) - own + 1, own)]
    return [[*item[:first], *common, *_with_group(item[first:])] for item in items]


def _with_group(words: Args) -> Args:
    """The further words of an item that has only a group of its own."""
    return [b'', b'', b'', *words, b''] if words else []


def tasks_of(reply: Sequence[Any]) -> dict[bytes, tuple[bytes, int, float, bytes, int, bytes, int]]:
    """Of a claim's reply: by id, payload, dequeue_count, deadline, headers, attempt, group and fence."""
    tasks = {}
    for task_id, payload, deadline, more in zip(*[iter(reply[4:])] * 4, strict=True):
        count, attempt, headers = more.split(b' ', 2) if more else (b'1', b'1', b'')
        end, fence, group = deadline.split(b' ', 2) if b' ' in deadline else (deadline, b'0', b'')
        tasks[task_id] = payload, int(count), float(end), headers, int(attempt), group, int(fence)
    return tasks


def _exhausted(view: View) -> bool:
    limit = view.state.get(b'max_dequeues')
    return limit is not None and view.attempt >= int(limit)


def _base(view: View) -> int:
    return view.dequeue_count - view.attempt


def _replacing(item: Args, old: View, moved: set[bytes]) -> bytes:
    """How an item may be answered that is to replace a task."""
    task_id, _, _, delay, *more = item
    line = (*more[5:7], b'', b'')[:2]
    moves = delay or line != (old.state.get(b'group', b''), old.state.get(b'level', b''))
    if old.working is not None or old.rejected is not None:
        return b'w' if old.working is not None else b'd'
    if moves and (old.pending or old.dequeueing):
        moved.add(task_id)
    done = b'w' if moves and old.dequeueing else b'r'
    return done + b'a' if moved - {task_id} else done
