"""How a model is told of its tools, writes calls and reasoning, and reads results."""

from atropos_agent.dialects.protocol import Dialect, Opening, ParsedCompletion

__all__ = ["Dialect", "Opening", "ParsedCompletion"]
