"""How tools are described to a model, how it writes calls and reasoning, and how it reads results."""

from atropos_agent.dialects.protocol import Dialect, Opening, ParsedCompletion

__all__ = ["Dialect", "Opening", "ParsedCompletion"]
