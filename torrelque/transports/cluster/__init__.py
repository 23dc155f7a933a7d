"""Clusters: which node serves a slot, and how calls get there."""
