"""The queue for synchronous code, over blocking clients of redis-py.

::

    import redis
    from torrelque.sync import Torrelque

    queue = Torrelque(redis.Redis(), queue='email')
    task_id = queue.enqueue({'to': 'joe@example.com'})
    state = queue.wait(task_id, timeout=10)
"""

from torrelque.sync.queue import Torrelque

__all__ = ('Torrelque',)
