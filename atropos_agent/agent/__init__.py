"""The one agent loop and its face."""

from atropos_agent.agent.agent import AtroposAgent, Server

__all__ = ["AtroposAgent", "Server"]
