"""The server in memory is held against real servers: the same calls, the same replies, the same keys."""
