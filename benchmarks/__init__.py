"""How fast the library is, beside its predecessor and its peers: ``make bench``.

::

    __main__      the command: run, report, profile
    compare       two revisions of the library, in turns
    plan          which systems, on which clients and event loops, do which rows, how often
    environments  a virtual environment for each system, under .bench/
    running       a server and a process for each measurement, in turns
    measure       that process: one row of one system, one line of JSON
    rows          what is measured
    metering      wall clock, the client's CPU, the server's CPU
    systems       one module for each system: how it is configured, and why so
    report        the tables
    plots         the plots, in an environment with matplotlib
    publishing    puts both into docs/performance/
    profiling     where the time of one task goes
    flow          what flow control costs, beside a plain task
    scale         what shards and servers cost, a command of its own; so are the next two
    sizing        what tasks and idle objects hold
    neighbours    how long large calls delay others

What runs in a measurement's process (measure, rows, metering, systems) is imported in
environments without this project, so it imports nothing of it but in ``systems.use_current``.
"""
