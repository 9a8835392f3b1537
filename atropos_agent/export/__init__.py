"""One record, each trainer's own shape. The only place of others' sentinels."""

from atropos_agent.export.atropos import scored_group, sequences_left_out
from atropos_agent.export.record import rollout_from_json, rollout_to_json

__all__ = ["rollout_from_json", "rollout_to_json", "scored_group", "sequences_left_out"]
