"""What is wrong with a server, a chat template or a sandbox before tokens are spent, and how to fix it."""

from atropos_agent.doctor.findings import Check, Grade, Verdict, judge
from atropos_agent.doctor.sandbox import BackendFound, examine_kernel, examine_sandboxes, judge_sandboxes
from atropos_agent.doctor.server import examine_server
from atropos_agent.doctor.template import examine_template

__all__ = [
    "BackendFound",
    "Check",
    "Grade",
    "Verdict",
    "examine_kernel",
    "examine_sandboxes",
    "examine_server",
    "examine_template",
    "judge",
    "judge_sandboxes",
]
