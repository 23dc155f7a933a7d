"""Queues with shards: how many there are, and their sessions and consumers."""
