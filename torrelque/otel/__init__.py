"""OpenTelemetry for a queue and a worker: spans, and the context that travels with a task; metrics.

``InstrumentedTorrelque`` and ``InstrumentedWorker`` stand in for ``Torrelque``
and ``Worker``, and need the extra ``otel``. They use nothing of the library
that a program could not use as well, and nothing of it knows them.
"""

from torrelque.otel.queue import InstrumentedTorrelque
from torrelque.otel.worker import InstrumentedWorker

__all__ = ('InstrumentedTorrelque', 'InstrumentedWorker')
