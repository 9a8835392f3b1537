"""One record, each trainer's own shape. The only place of others' sentinels."""

from atropos_agent.export.atropos import scored_group, sequences_left_out

__all__ = ["scored_group", "sequences_left_out"]
