"""What is wrong with a server or a chat template before tokens are spent, and what to do about it."""

from atropos_agent.doctor.findings import Check, Grade, Verdict, judge
from atropos_agent.doctor.server import examine_server
from atropos_agent.doctor.template import examine_template

__all__ = ["Check", "Grade", "Verdict", "examine_server", "examine_template", "judge"]
