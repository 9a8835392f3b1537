"""Why a rollout failed, as data: control flow reads these fields, never an error's text or name."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from enum import StrEnum

from atropos_agent.errors import (
    ConfigError,
    ContextOverflow,
    ModelNotFound,
    ProviderError,
    RecordError,
    RenderError,
    RequestTimeout,
    SandboxError,
    TaskError,
    ToolError,
)


class FailureKind(StrEnum):
    """The boundary at which a rollout failed."""

    SERVER = "server"
    REQUEST_TIMEOUT = "request_timeout"
    CONTEXT_LENGTH = "context_length"
    RENDER = "render"
    SANDBOX = "sandbox"
    WALL_TIME = "wall_time"
    TASK = "task"
    CONFIG = "config"
    OTHER = "other"


class Blame(StrEnum):
    """Who caused a failure. The policy's failures are scored; infrastructure and task failures are not."""

    POLICY = "policy"
    INFRASTRUCTURE = "infrastructure"
    TASK = "task"


# The first match counts: ContextOverflow and RequestTimeout are ProviderErrors too.
_KINDS: tuple[tuple[type[BaseException], FailureKind], ...] = (
    (ContextOverflow, FailureKind.CONTEXT_LENGTH),
    (RequestTimeout, FailureKind.REQUEST_TIMEOUT),
    (ProviderError, FailureKind.SERVER),
    (RenderError, FailureKind.RENDER),
    (SandboxError, FailureKind.SANDBOX),
    (TaskError, FailureKind.TASK),
    (ConfigError, FailureKind.CONFIG),
    (RecordError, FailureKind.CONFIG),
    (ToolError, FailureKind.CONFIG),
)
_BLAMED = {FailureKind.CONTEXT_LENGTH: Blame.POLICY, FailureKind.TASK: Blame.TASK}
_HOPELESS = (RenderError, ModelNotFound, ConfigError)


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended a rollout early. `retryable`: the same rollout may succeed when it is tried again.

    `error_type` and `text` are for people. `traceback` is that of task code, "" for all other failures.
    """

    kind: FailureKind
    blame: Blame
    retryable: bool
    error_type: str
    text: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, *, blame: Blame | None = None) -> Failure:
        """The failure for `error`; `blame` replaces the default of the error's type."""
        kind = next((kind for known, kind in _KINDS if isinstance(error, known)), FailureKind.OTHER)
        cause = error.__cause__ if isinstance(error, TaskError) else None
        return cls(
            kind=kind,
            blame=blame or _BLAMED.get(kind, Blame.INFRASTRUCTURE),
            retryable=not isinstance(error, _HOPELESS),
            error_type=type(error).__name__,
            text=str(error),
            traceback="" if cause is None else "".join(traceback.format_exception(cause)),
        )
