"""The imperative shell of a queue object: it runs the core over a transport."""
