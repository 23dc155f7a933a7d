"""A server that cannot be used for a long time, under consumers, workers and watchers of every client.

`troubles` are ways of not being usable, `crews` those who go on meanwhile, each crew on a client of its own.
All crews go through the same outage at once; when the server can be used again, `playing` gives each something
to do, and says who did not do it in time, and what was left behind::

    python -m tests.outages --seconds 600                  # the real ten minutes of each
    python -m tests.outages --seconds 20 --trouble silent --loop trio

`test_outages` is the short form, in which pauses are as long at once as they are after many failures.
"""
