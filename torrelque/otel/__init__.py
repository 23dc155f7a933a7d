"""OpenTelemetry for a queue and a worker: spans, metrics, and the context that travels with each task.

Use ``InstrumentedTorrelque`` and ``InstrumentedWorker`` in place of ``Torrelque``
and ``Worker``. They need the extra ``otel``. A plain queue or worker pays nothing for them.
"""

from torrelque.otel.queue import InstrumentedTorrelque
from torrelque.otel.worker import InstrumentedWorker

__all__ = ('InstrumentedTorrelque', 'InstrumentedWorker')
