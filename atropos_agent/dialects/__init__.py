"""How a model is told of its tools, writes calls and reasoning, and reads results."""
