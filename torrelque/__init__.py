"""A reliable work queue for async Python on Redis, Valkey or KeyDB.

The layers, from the outside in::

    worker      Worker, Router, retry policies and events; uses only public names
    queue       Torrelque, the queue
    engine      runs the core over a transport, on an event loop
    transports  an adapter for each client
    core        all decisions, without I/O; the server-side scripts
    errors      the exceptions

``sync`` has the queue for synchronous code, ``django`` a backend of Django's Tasks,
``otel`` a queue and a worker that report to OpenTelemetry, ``testing`` a server in
memory, ``embedded`` a server for development, and ``cli`` the ``torrelque`` command.
"""

from torrelque import events, retry, serialisers
from torrelque.core.auditing import Violation
from torrelque.core.codec import TorrelqueTaskSerialiser
from torrelque.core.commands import EnqueueItem, ReleaseItem, RequeueItem
from torrelque.core.durability import Durability
from torrelque.core.models import (
    Cancellation,
    Deadline,
    GroupCounts,
    GroupInfo,
    Limits,
    Pause,
    Receipt,
    Task,
    TaskId,
    TaskProgress,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
)
from torrelque.core.presence import WorkerInfo
from torrelque.core.schedules import Schedule
from torrelque.engine.discovery import queues, shards_of
from torrelque.engine.waits import WaitSharer
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueDurabilityError,
    TorrelqueError,
    TorrelqueExistsError,
    TorrelqueHandshakeError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueNewerError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueShardsError,
    TorrelqueTimeLimitError,
    TorrelqueTimeoutError,
    TorrelqueTooLargeError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
    is_transient,
)
from torrelque.queue import Torrelque
from torrelque.retry import Reject, Retry
from torrelque.transports.base import Client, Transport
from torrelque.transports.native import connect
from torrelque.worker.burst import Burst
from torrelque.worker.router import Router
from torrelque.worker.sources import Source
from torrelque.worker.worker import Worker

__all__ = (
    'Burst',
    'Cancellation',
    'Client',
    'Deadline',
    'Durability',
    'EnqueueItem',
    'GroupCounts',
    'GroupInfo',
    'Limits',
    'Pause',
    'Receipt',
    'Reject',
    'ReleaseItem',
    'RequeueItem',
    'Retry',
    'Router',
    'Schedule',
    'Source',
    'Task',
    'TaskId',
    'TaskProgress',
    'Torrelque',
    'TorrelqueConnectionError',
    'TorrelqueDurabilityError',
    'TorrelqueError',
    'TorrelqueExistsError',
    'TorrelqueHandshakeError',
    'TorrelqueLeaseLostError',
    'TorrelqueLookupError',
    'TorrelqueNewerError',
    'TorrelqueQueueStats',
    'TorrelqueRefusedError',
    'TorrelqueReplyError',
    'TorrelqueResponseTimeout',
    'TorrelqueShardsError',
    'TorrelqueTask',
    'TorrelqueTaskSerialiser',
    'TorrelqueTaskState',
    'TorrelqueTaskStatus',
    'TorrelqueTimeLimitError',
    'TorrelqueTimeoutError',
    'TorrelqueTooLargeError',
    'TorrelqueTypeError',
    'TorrelqueUsageError',
    'TorrelqueValueError',
    'Transport',
    'Violation',
    'WaitSharer',
    'Worker',
    'WorkerInfo',
    'connect',
    'events',
    'is_transient',
    'queues',
    'retry',
    'serialisers',
    'shards_of',
)
