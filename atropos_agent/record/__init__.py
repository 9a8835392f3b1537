"""The record: a rollout as JSON, the log and its sealed segments, the run directory, redaction."""

from atropos_agent.record.log import GroupRecord, read_groups, read_rollouts
from atropos_agent.record.manifest import manifest, read_manifest
from atropos_agent.record.rundir import Repair, RunDir
from atropos_agent.record.seal import Sealed

__all__ = [
    "GroupRecord",
    "Repair",
    "RunDir",
    "Sealed",
    "manifest",
    "read_groups",
    "read_manifest",
    "read_rollouts",
]
