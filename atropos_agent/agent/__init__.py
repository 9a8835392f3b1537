"""The agent loop and its public interface."""

from atropos_agent.agent.agent import AtroposAgent, Server
from atropos_agent.agent.run import Run, TurnResult

__all__ = ["AtroposAgent", "Run", "Server", "TurnResult"]
