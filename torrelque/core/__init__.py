"""The sans-IO core: it makes all of the queue's decisions, and never waits.

A finite piece of work is an *operation*: a generator that yields batches of
calls and is sent their replies. Running one needs no event loop::

    >>> from torrelque.core import operations, scripts
    >>> from torrelque.core.keys import Keys
    >>> work = operations.queue_stats(scripts.load(), Keys.of_queue('email'))
    >>> (call,) = next(work)
    >>> call.command.name
    'stats'
    >>> try:
    ...     work.send([[2, 1, 1, 0, 0, b'0.5', b'9', b'8', b'7', *3 * [b'0'], *4 * [b''], *6 * [b'0']]])
    ... except StopIteration as end:
    ...     end.value.pending
    1

Longer-lived state is in :class:`~torrelque.core.session.Session`, a state
machine. Each queue object has one. It owns the lanes, which make calls safe to
repeat, merges concurrent calls to the same script, and serves the consumers
that wait. The clock, ids and randomness are passed to it.

A transport carries batches to a server; the engine drives operations and the
session over a transport. The tests drive them over a model of the server.
"""
