"""Kinds of worlds: what goes wrong in them, and how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

__all__ = ('CONFIGS', 'Config', 'Failovers', 'Faults')


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities, each way where that applies."""

    lose: float = 0.0
    """A request or a reply never arrives."""
    repeat: float = 0.0
    """A batch arrives again, perhaps much later."""
    ancient: float = 0.0
    """A batch arrives again when its lane has expired, and nobody remembers it."""
    cut: float = 0.0
    """Only a part of a batch arrives, and no reply."""
    split: float = 0.0
    """Others come between two calls of a batch."""
    slow: float = 0.0
    """A request or a reply takes up to a second."""
    stuck: float = 0.0
    """A request or a reply takes up to a minute."""
    forget: float = 0.0
    """The server does not know a script."""
    unblock: float = 0.0
    """The connection of a wait breaks."""
    late: float = 0.0
    """A client does later what it meant to do now."""


NONE = Faults()
FEW = Faults(lose=0.02, repeat=0.1, split=0.1, slow=0.1, stuck=0.01, unblock=0.05, late=0.1)
CUTS = Faults(split=0.1, unblock=0.15, forget=0.02)
ALL = Faults(lose=0.1, repeat=0.15, cut=0.05, split=0.2, slow=0.1, stuck=0.02, forget=0.02, unblock=0.15, late=0.1)


@dataclass(frozen=True, slots=True)
class Failovers:
    """How a primary is replaced by its replica, which is a state that it had a while ago."""

    every: float = 3.0
    """Seconds between two, on an average."""
    amid: float = 0.02
    """Of the batches, those after which the primary fails before it has answered."""
    lag: float = 4.0
    """Seconds by which a replica lags at the most."""
    skew: tuple[float, ...] = (2.0, 20.0)
    """Seconds by which its clock is fast or slow at the most, each time one of these."""
    ahead: float = 40.0
    """Seconds by which the clock of the first primary is fast in some worlds: all after it give out its last number."""
    outage: float = 3.0
    """Seconds for which nobody is served at the most."""
    confirming: float = 0.5
    """Of the clients, those that wait until their writes are confirmed by the replica."""
    patience: tuple[float, ...] = (0.5, 2.0, 10.0)
    """Seconds for which clients repeat their calls, each of them one of these."""
    moves: bool = False
    """In place of what fails a primary, a slot moves to another node, with its keys, and nothing is lost."""


@dataclass(frozen=True, slots=True)
class Config:
    """``clients``, and ``callers`` and ``workers`` of each, are from-to.

    The trouble lasts for ``seconds``, then all comes to rest.
    """

    clients: tuple[int, int] = (3, 6)
    callers: tuple[int, int] = (1, 3)
    workers: tuple[int, int] = (0, 0)
    seconds: float = 40.0
    faults: Faults = field(default=ALL)
    cancel: float = 0.1
    """Of the calls, those that are cancelled."""
    at_once: tuple[int, ...] = (1, 1, 1, 2, 5)
    """How many tasks one call enqueues."""
    cancelling: float = 0.0
    """Of those who hold tasks, and of operators' cancellations, those that cancel tasks which are worked on."""
    chosen: float = 0.2
    """Of the calls that enqueue, those for whose tasks callers choose ids, which may be queued already."""
    replacing: float = 0.4
    """Of the tasks with such ids, those that are to replace one that waits."""
    accidents: Mapping[str, float] = field(default_factory=dict)
    """How often a second each client is killed, paused, shut down, or forks; who is gone is replaced after a while.

    With ``forget`` a record of how many shards there are is lost. With ``reopen``, one of several queue objects of a
    process is closed, and another opened."""
    behind: float = 0.7
    """Of the clients, those whose transport can send a claim behind a wait."""
    expiring: float = 0.1
    """Of the tasks, those that expire."""
    caps: tuple[int | None, ...] = ()
    """How many dead letters clients keep, each of them one of these."""
    shards: tuple[int, ...] = ()
    """How many shards the queue may have, at first the first of these; callers change it if there are several."""
    queues: int = 0
    """How many queues each process uses, with one shared wait; 0 where each client has the only queue."""
    legacy: int = 0
    """Clients of 0.9."""
    pauses: bool = False
    """Whether operators pause the queue, and resume it."""
    groups: float = 0.0
    """Of the tasks, those that are in a group; then operators set limits of groups, too."""
    levels: float = 0.0
    """Of the tasks without a group, those with a level."""
    limits: bool = False
    """Whether operators set limits, and lift them."""
    schedules: bool = False
    """Whether operators keep schedules."""
    later: bool = False
    """Whether at some moment somebody begins to use the queue with a feature of a later version."""
    failovers: Failovers | None = None
    """None where there is one server, which forgets nothing."""
    longest_wait: float | None = None
    """Seconds for which a task may wait while somebody waits for it; None where anything may hold it up."""


ACCIDENTS: Mapping[str, float] = MappingProxyType({'kill': 0.02, 'pause': 0.03, 'shut': 0.03})
FORGETFUL: Mapping[str, float] = MappingProxyType({**ACCIDENTS, 'forget': 0.05})
CAPS = (None, 1, 4)
MANY = (1, 3, 6, 10)
NEWCOMERS: Mapping[str, float] = MappingProxyType({'kill': 0.06, 'pause': 0.03, 'shut': 0.06})
PAUSES: Mapping[str, float] = MappingProxyType({**ACCIDENTS, 'pause': 0.06})
GROUPS_ON_NODES = Config(
    clients=(2, 3), callers=(2, 4), seconds=12.0, groups=0.7, levels=0.2, faults=FEW, accidents=NEWCOMERS
)
QUEUES = Config(clients=(1, 3), callers=(0, 2), workers=(0, 1), seconds=20.0, faults=FEW, chosen=0.0, queues=3)
CUTTING: Mapping[str, float] = MappingProxyType({'kill': 0.05, 'shut': 0.05, 'reopen': 0.05})
SCHEDULES_ON_NODES = replace(GROUPS_ON_NODES, groups=0.0, seconds=20.0, pauses=True, schedules=True)

CONFIGS: Mapping[str, Config] = MappingProxyType(
    {
        'alone': Config(accidents=ACCIDENTS, pauses=True, cancelling=0.2),
        'cancel': Config(cancel=0.5, accidents=ACCIDENTS),
        'mixed': Config(
            clients=(1, 3), legacy=6, accidents={'kill': 0.01, 'pause': 0.03, 'shut': 0.01}, cancelling=0.2
        ),
        # Few ids, and most of what is enqueued replaces what waits.
        'debounce': Config(clients=(2, 4), chosen=0.9, replacing=0.8, seconds=20.0, accidents=ACCIDENTS),
        # A hint that dies with a connection costs a slice, of at most eight seconds.
        'cuts': Config(faults=CUTS, cancel=0.3, accidents={'kill': 0.05, 'shut': 0.05}, longest_wait=8.5, pauses=True),
        # Where nothing breaks, a task is claimed within a few round trips, whoever cancels.
        'calm': Config(faults=NONE, cancel=0.3, longest_wait=0.1, pauses=True),
        # Pauses of up to a minute are longer than any lease here.
        'workers': Config(clients=(3, 5), callers=(1, 2), workers=(1, 2), accidents=PAUSES, caps=CAPS),
        'crew': Config(clients=(1, 3), callers=(1, 2), workers=(1, 2), faults=NONE, longest_wait=0.1, caps=CAPS),
        'shards': Config(
            clients=(2, 4),
            callers=(2, 4),
            shards=(3, 2, 5),
            cancel=0.05,
            chosen=0.95,
            accidents=FORGETFUL,
            pauses=True,
            cancelling=0.2,
        ),
        # A shard is looked at ten times a second by those who have enough to do with others.
        'shards-calm': Config(
            clients=(2, 4), shards=(3,), faults=NONE, cancel=0.3, longest_wait=0.3, pauses=True, cancelling=0.2
        ),
        'limits': Config(faults=NONE, cancel=0.3, longest_wait=0.1, seconds=20.0, limits=True, cancelling=0.2),
        'limits-faults': Config(accidents=ACCIDENTS, seconds=20.0, pauses=True, limits=True, cancelling=0.2),
        'limits-shards': Config(
            clients=(2, 4),
            shards=(3,),
            faults=NONE,
            cancel=0.3,
            longest_wait=0.3,
            seconds=20.0,
            limits=True,
            cancelling=0.2,
        ),
        'schedules': Config(
            clients=(2, 4),
            faults=NONE,
            cancel=0.3,
            longest_wait=0.1,
            seconds=20.0,
            pauses=True,
            limits=True,
            schedules=True,
        ),
        'schedules-faults': Config(
            clients=(2, 4), accidents=ACCIDENTS, seconds=20.0, pauses=True, schedules=True, groups=0.5, levels=0.3
        ),
        'groups': Config(
            faults=NONE,
            cancel=0.3,
            longest_wait=0.1,
            seconds=12.0,
            groups=0.7,
            levels=0.5,
            pauses=True,
            chosen=0.3,
            at_once=MANY,
        ),
        'groups-faults': Config(
            accidents=ACCIDENTS, seconds=12.0, groups=0.8, levels=0.2, limits=True, caps=CAPS, at_once=MANY
        ),
        'groups-shards': Config(
            clients=(2, 4),
            shards=(3,),
            faults=NONE,
            cancel=0.3,
            longest_wait=0.3,
            seconds=12.0,
            groups=0.8,
            levels=0.2,
            chosen=0.0,
            at_once=MANY,
        ),
        'queues': replace(QUEUES, cancel=0.3, faults=NONE, longest_wait=0.3),
        # A hint that dies with a connection costs the slice of a round.
        'queues-cuts': replace(QUEUES, cancel=0.3, faults=CUTS, accidents=CUTTING, longest_wait=8.5),
        'queues-faults': replace(QUEUES, accidents=ACCIDENTS),
        'later': Config(later=True, seconds=20.0),
        'forks': Config(
            clients=(1, 3), workers=(0, 1), accidents={**ACCIDENTS, 'fork': 0.03}, faults=replace(ALL, ancient=0.02)
        ),
        # Whoever is new makes new lanes, of which some are lost again.
        'failover': Config(
            clients=(2, 3), callers=(2, 4), seconds=30.0, faults=FEW, accidents=NEWCOMERS, failovers=Failovers()
        ),
        'moves': Config(
            clients=(2, 3),
            callers=(2, 4),
            seconds=30.0,
            faults=FEW,
            accidents=NEWCOMERS,
            failovers=Failovers(moves=True),
        ),
        'groups-moves': replace(GROUPS_ON_NODES, failovers=Failovers(moves=True)),
        # A fence may fall where writes are lost and the new server's clock is behind.
        'groups-failover': replace(GROUPS_ON_NODES, failovers=Failovers()),
        'schedules-moves': replace(SCHEDULES_ON_NODES, failovers=Failovers(moves=True)),
        # What a schedule did before writes were lost, it may do again.
        'schedules-failover': replace(SCHEDULES_ON_NODES, pauses=False, failovers=Failovers()),
        'moves-shards': Config(
            clients=(2, 3),
            callers=(2, 4),
            seconds=30.0,
            shards=(3, 2, 5),
            cancel=0.05,
            chosen=0.6,
            faults=FEW,
            accidents=NEWCOMERS,
            failovers=Failovers(moves=True, every=1.5, confirming=0.0),
        ),
    }
)
