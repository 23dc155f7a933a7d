"""Consume a queue: call a handler for each task, renew its lease, and write its outcome."""
