"""The quickstart's system prompt: short, because prompt length is the embedded policy's main cost.

The embedded policy is trained on exactly this text: a change requires retraining
(`scripts/train_tiny_policy.py`), and a test fails without it.
"""

from __future__ import annotations

import hashlib

TERMINAL_SCHEMA_JSON = (
    '{"name": "terminal", "description": "Run a shell command in /workspace.", "parameters": '
    '{"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}}'
)

CALL_FORMAT = '<tool_call>\n{"name": "terminal", "arguments": {"command": "..."}}\n</tool_call>'

SHORT_SYSTEM_PROMPT = (
    "You solve tasks with a shell.\n"
    f"<tools>\n{TERMINAL_SCHEMA_JSON}\n</tools>\n"
    f"To act, write one or more calls:\n{CALL_FORMAT}\n"
    "You may think first inside <think></think>. "
    "When the task is done, write the final answer without any call."
)


def prompt_digest(schema_json: str = TERMINAL_SCHEMA_JSON) -> str:
    """SHA-256 of the short prompt and its only tool's schema, for which the embedded policy was trained."""
    return hashlib.sha256(f"{SHORT_SYSTEM_PROMPT}\n{schema_json}".encode()).hexdigest()
