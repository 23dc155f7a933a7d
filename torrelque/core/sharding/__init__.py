"""Queues with shards: the layout, and their session and consumers."""
