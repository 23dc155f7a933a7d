"""A reliable work queue for async Python on Redis, Valkey or KeyDB.

The layers, from the outside in::

    queue       Torrelque, the facade (with observing, watching, sweeping, items)
    transports  one adapter for each client, and the engine that runs the core over any of them
    core        what the queue decides, without I/O; the server-side scripts
    errors      the exceptions of all

``embedded`` is a server for demonstrations, ``testing`` what users' tests import,
``cli`` the ``torrelque`` command.
"""

from torrelque.core.codec import TorrelqueTaskSerialiser
from torrelque.core.models import (
    Receipt,
    Task,
    TaskId,
    TorrelqueQueueStats,
    TorrelqueTask,
    TorrelqueTaskState,
    TorrelqueTaskStatus,
)
from torrelque.errors import (
    TorrelqueConnectionError,
    TorrelqueError,
    TorrelqueHandshakeError,
    TorrelqueLeaseLostError,
    TorrelqueLookupError,
    TorrelqueRefusedError,
    TorrelqueReplyError,
    TorrelqueResponseTimeout,
    TorrelqueTimeoutError,
    TorrelqueTypeError,
    TorrelqueUsageError,
    TorrelqueValueError,
)
from torrelque.items import EnqueueItem, ReleaseItem, RequeueItem
from torrelque.observing import queues
from torrelque.queue import Torrelque
from torrelque.transports.base import Transport
from torrelque.transports.native import connect

__all__ = (
    'EnqueueItem',
    'Receipt',
    'ReleaseItem',
    'RequeueItem',
    'Task',
    'TaskId',
    'Torrelque',
    'TorrelqueConnectionError',
    'TorrelqueError',
    'TorrelqueHandshakeError',
    'TorrelqueLeaseLostError',
    'TorrelqueLookupError',
    'TorrelqueQueueStats',
    'TorrelqueRefusedError',
    'TorrelqueReplyError',
    'TorrelqueResponseTimeout',
    'TorrelqueTask',
    'TorrelqueTaskSerialiser',
    'TorrelqueTaskState',
    'TorrelqueTaskStatus',
    'TorrelqueTimeoutError',
    'TorrelqueTypeError',
    'TorrelqueUsageError',
    'TorrelqueValueError',
    'Transport',
    'connect',
    'queues',
)
