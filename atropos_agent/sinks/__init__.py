"""Consumers of the log of a run."""
