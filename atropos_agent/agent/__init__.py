"""The one agent loop and its face."""

from atropos_agent.agent.agent import AtroposAgent, Server
from atropos_agent.agent.run import Run, TurnResult

__all__ = ["AtroposAgent", "Run", "Server", "TurnResult"]
