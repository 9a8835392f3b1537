"""Finds defects in recorded trajectories, our own and others', before they reach a trainer."""

from atropos_agent.lint.findings import CODES, Finding, Severity
from atropos_agent.lint.linter import Linter, Source, sources
from atropos_agent.lint.vocabulary import Vocabulary

__all__ = ["CODES", "Finding", "Linter", "Severity", "Source", "Vocabulary", "sources"]
