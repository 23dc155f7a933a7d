"""Clusters: which node serves a slot, and how calls reach it."""
