"""The core against the memory model of a server, in a world where everything goes wrong, in virtual time.

There is no event loop: a seeded scheduler steps many clients, each with a session
of its own and several callers, and plays the engine and the network. `rules`
judges each thing that the server did, `ledger` what callers were told, `world`
what is left when all has come to rest. A seed always replays exactly::

    python -m tests.simulation --config mixed --seed 17         # with a trace
    python -m tests.simulation --config mixed --seed 17 --trim  # a failing seed, with a short trace
    python -m tests.simulation --seeds 1000                     # of each configuration
    python -m tests.simulation                                  # until it is stopped
    python -m tests.simulation --real --seeds 100               # on a real server, too, with the same outcome
"""
