"""Patterns of use, each repeated: what a process and its server hold must not grow with the number of rounds.

Each pattern is run on a client and an event loop: first to warm up, then N rounds, 4N and
8N in all. After each of these, `census` counts event-loop tasks, threads, file descriptors,
live objects by type, the entries of containers, the server's connections, subscriptions and
keys. `measuring` compares the counts::

    python -m tests.growth                                      # every pattern, client and loop
    python -m tests.growth --rounds 50 --pattern lone_tasks     # one pattern, for longer
    python -m tests.growth --client native --loop trio --explain

`test_growth` is the short form.
"""
