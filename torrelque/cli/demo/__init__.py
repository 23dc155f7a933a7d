"""The demonstration: worker processes, one of which is killed, and a check of all results."""
