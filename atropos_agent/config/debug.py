"""The debug environment variables: one reader, validated once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from atropos_agent.config.models import Seconds
from atropos_agent.errors import ConfigError


def _flag(value: object) -> object:
    if isinstance(value, str):  # pydantic's own bool refuses the empty text, which means off here
        known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
        return known.get(value.strip().lower(), value)
    return value


def _path(value: object) -> object:
    # an empty variable means unset; Path("") would be the working directory
    return None if isinstance(value, str) and not value.strip() else value


Flag = Annotated[bool, BeforeValidator(_flag)]


class DebugSettings(BaseModel):
    """The debug environment variables of the agent, read once and validated together."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    bypass_managed_server: Flag = False
    debug_request: Flag = False
    debug_request_full: Flag = False
    request_save_dir: Annotated[Path | None, BeforeValidator(_path)] = None
    debug_response: Flag = False
    chat_timeout_s: Seconds = None
    wait_every_s: Seconds = None
    direct_request_timeout_s: Seconds = 120.0
    print_task: Flag = False
    stall_after_s: Seconds = 60.0
    """Report operations that stall for this long, with their cause; None disables."""

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


def quiet_libraries() -> None:
    """Suppress the advice about missing torch that transformers prints, unless the user set its log level."""
    # call this before the first import of transformers: it reads the variable once
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


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
    "ATROPOS_DEBUG_STALL_AFTER_S": "stall_after_s",
}
