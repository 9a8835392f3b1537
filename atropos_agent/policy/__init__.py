"""Inference servers: one completion for a prompt, with what the server tells of its tokens."""
