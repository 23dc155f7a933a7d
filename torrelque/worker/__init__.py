"""Consumes a queue: calls a handler for each task, renews its lease, and writes its outcome."""
