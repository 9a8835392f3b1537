"""Exporters: the record in the format of each trainer. Only here are the trainers' sentinel values used."""

from atropos_agent.export.atropos import scored_group, scored_groups
from atropos_agent.export.rows import Row, Rules, is_mixed, rows_of, sequences_left_out, trainable

__all__ = [
    "Row",
    "Rules",
    "is_mixed",
    "rows_of",
    "scored_group",
    "scored_groups",
    "sequences_left_out",
    "trainable",
]
