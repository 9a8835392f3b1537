"""RL trajectory collection for tool-using language models: exact tokens, real sandboxes, scored groups."""
