"""What users write: files, command-line overrides, environment variables. The only reader of os.environ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from atropos_agent.errors import ConfigError


def _flag(value: object) -> object:
    if isinstance(value, str):
        known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
        return known.get(value.strip().lower(), value)
    return value


def _seconds(value: object) -> object:
    """None for unset, empty, zero and negative: no limit."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str | int | float):
        seconds = float(value)
        return seconds if seconds > 0 else None
    return value


def _path(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


Flag = Annotated[bool, BeforeValidator(_flag)]
Seconds = Annotated[float | None, BeforeValidator(_seconds)]


class AgentConfig(BaseModel):
    """How one rollout is sampled and bounded. Counts are per rollout unless named otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, ge=0)
    """1.0 samples from the model's own distribution, so that raw logprobs are the behaviour policy's."""
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0 is off."""
    min_p: float = Field(0.0, ge=0, le=1)
    max_tokens: int | None = Field(None, gt=0)
    """Sampled tokens per step; None leaves it to the context length."""
    max_steps: int = Field(50, gt=0)
    max_total_tokens: int | None = Field(None, gt=0)
    """Sampled tokens."""
    max_tool_calls: int | None = Field(None, ge=0)
    max_context_tokens: int | None = Field(None, gt=0)
    """Prompt and completion together; the server's own context length bounds it too."""
    max_wall_time_s: float | None = Field(None, gt=0)
    tool_timeout_s: float = Field(120.0, gt=0)
    """One call; after it the policy reads that the call timed out."""
    tool_delay_s: float = Field(0.0, ge=0)
    max_repairs: int = Field(3, ge=0)
    """Steps without any valid call that are answered with an error instead of ending the rollout."""
    max_observation_chars: int = Field(16_000, ge=200)
    """Each result keeps head and tail within this."""
    system_prompt: str | None = None
    """None is the built-in prompt with the tools; a text replaces it whole."""


class DebugSettings(BaseModel):
    """The debug environment variables of the agent, read once and validated together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bypass_managed_server: Flag = False
    debug_request: Flag = False
    debug_request_full: Flag = False
    request_save_dir: Annotated[Path | None, BeforeValidator(_path)] = None
    debug_response: Flag = False
    chat_timeout_s: Seconds = None
    wait_every_s: Seconds = None
    direct_request_timeout_s: Seconds = 120.0
    print_task: Flag = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> DebugSettings:
        """Read `DEBUG_VARIABLES` from `environ` (default: os.environ).

        Raises ConfigError naming each wrong variable and its value.
        """
        environ = os.environ if environ is None else environ
        given = {field: environ[name] for name, field in DEBUG_VARIABLES.items() if name in environ}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            names = {field: name for name, field in DEBUG_VARIABLES.items()}
            wrong = "; ".join(
                f"{names[str(e['loc'][0])]}={environ[names[str(e['loc'][0])]]!r}: {e['msg']}"
                for e in error.errors()
            )
            raise ConfigError(f"bad environment variable: {wrong}") from None


DEBUG_VARIABLES: Mapping[str, str] = {
    "ATROPOS_BYPASS_MANAGED_SERVER": "bypass_managed_server",
    "ATROPOS_DEBUG_AGENT_REQUEST": "debug_request",
    "ATROPOS_DEBUG_AGENT_REQUEST_FULL": "debug_request_full",
    "ATROPOS_DEBUG_AGENT_REQUEST_SAVE_DIR": "request_save_dir",
    "ATROPOS_DEBUG_AGENT_RESPONSE": "debug_response",
    "ATROPOS_AGENT_CHAT_TIMEOUT_S": "chat_timeout_s",
    "ATROPOS_DEBUG_AGENT_WAIT_EVERY_S": "wait_every_s",
    "ATROPOS_DIRECT_REQUEST_TIMEOUT_S": "direct_request_timeout_s",
    "ATROPOS_DEBUG_PRINT_TASK": "print_task",
}
