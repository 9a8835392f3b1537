"""The schema of a config file, with all defaults. Precedence and error texts are in `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    field_validator,
    model_validator,
)


def _seconds(value: object) -> object:
    """A time limit in seconds. Unset, empty, zero and negative values mean no limit: None."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str | int | float):
        seconds = float(value)
        return seconds if seconds > 0 else None
    return value


def expand_policy(value: object) -> object:
    """Expand the short forms `policy: embedded` and `policy: http://...` into a mapping."""
    if not isinstance(value, str):
        return value
    return {"kind": "embedded"} if value == "embedded" else {"base_url": value}


Seconds = Annotated[float | None, BeforeValidator(_seconds)]


class AgentConfig(BaseModel):
    """Sampling and limits of one rollout. Counts are per rollout unless stated otherwise."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, ge=0)
    """1.0 samples from the model's own distribution: raw logprobs are then those of the behaviour policy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0 is off."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0)
    """Sampled tokens per step; None: up to the context length."""
    max_steps: int = Field(default=50, gt=0)
    max_total_tokens: int | None = Field(default=None, gt=0)
    """Sampled tokens."""
    max_tool_calls: int | None = Field(default=None, ge=0)
    max_context_tokens: int | None = Field(default=None, gt=0)
    """Prompt and completion together; the server's own context length also applies."""
    max_wall_time_s: float | None = Field(default=None, gt=0)
    """Limits the rollout's own time and, separately, its waiting time for the server. Only the first limit is
    blamed on the policy."""
    tool_timeout_s: float = Field(default=120.0, gt=0)
    """Per call. A call that exceeds it gives the policy a time-out message."""
    tool_delay_s: float = Field(default=0.0, ge=0)
    max_repairs: int = Field(default=3, ge=0)
    """Steps without any valid call that get an error message back, before such a step ends the rollout."""
    history: Literal["append", "template"] = "append"
    """`append` shows the policy its sampled tokens. `template` shows it the chat template's rendering of the
    messages, and begins a new training sequence where that differs from what was shown before."""
    rescore: Literal["off", "server"] = "off"
    """`server` requests the logprobs of tokens that came without any (text-only formats), after the turn."""
    system_prompt: str | None = None
    """None: the built-in prompt with the tools. A text replaces the whole prompt."""


class PolicyConfig(BaseModel):
    """The inference server. `embedded`: the included model, served by llama.cpp in a child process."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["http", "embedded"] = "http"
    base_url: str = "http://127.0.0.1:8080/v1"
    model: str | None = None
    """None: the only model that the server serves."""
    api_key: SecretStr | None = None
    tokenizer: str | None = None
    """A folder or a hub name; None: `model`."""
    wire: (
        Literal[
            "llama.cpp",
            "sglang",
            "vllm",
            "vllm-generate",
            "chat+ids",
            "chat+logprobs",
            "text",
            "chat",
        ]
        | None
    ) = None
    """The request format. None: probe the server once and use the best format that it answers correctly."""
    max_concurrency: int = Field(default=256, gt=0)
    connect_timeout_s: float = Field(default=3.0, gt=0)
    request_timeout_s: Seconds = None

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("a server's URL begins with http:// or https://")
        return value.rstrip("/")


class SandboxConfig(BaseModel):
    """Where model-written commands run, with which limits, and how many rollouts run at once."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["auto", "native", "bubblewrap", "docker", "podman", "local"] = "auto"
    """`local` uses no sandbox; every record made with it says `unsafe`."""
    image: str = ""
    """The image for docker and podman. The other backends show the host's system folders."""
    cpus: float | None = Field(default=None, gt=0)
    """CPUs per sandbox; enforced by docker and podman."""
    slots: int = Field(default=16, gt=0)
    """Rollouts in flight."""
    min_idle: int = Field(default=4, ge=0)
    """Sandboxes kept ready in addition to those in use."""
    max_uses: int = Field(default=1, gt=0)
    """Rollouts that one sandbox serves; it is emptied after each. Above 1 is for containers, which start
    slowly."""
    workspace_mb: int = Field(default=256, gt=0)
    memory_mb: int = Field(default=1024, gt=0)
    processes: int = Field(default=256, gt=1)
    cpu_s: float | None = Field(default=None, gt=0)
    """CPU time of one command with all its child processes, in seconds."""
    template: str = ""
    """A directory of this machine that each workspace starts with."""
    readonly_binds: tuple[str, ...] = ()
    """Absolute paths of this machine, visible read-only in each sandbox at the same path."""
    require: dict[str, str] = Field(default_factory=dict[str, str])
    """Limits that must be enforced "hard" or by a named mechanism, e.g. `memory: hard`; else the run is
    refused."""


class EnvConfig(BaseModel):
    """Settings of every environment. A subclass adds fields, or changes defaults.

    `model_fields_set` has the names that the run's config sets, also those set to the default.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    group_size: int = Field(default=8, gt=0)
    min_group_size: int | None = Field(default=None, gt=0)
    """Export a group in which at least this many rollouts are scored and give a row, counted after
    `truncated: drop` and `on_branch: drop`. None: all must be scored."""
    tools: tuple[str, ...] = ("terminal",)
    tool_options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict[str, dict[str, JsonValue]])
    """Constructor arguments by tool, e.g. {terminal: {timeout_s: 120}}."""
    max_observation_chars: int = Field(default=16_000, ge=200)
    """Length of one tool result as the policy sees it; head and tail are kept."""
    infrastructure_retries: int = Field(default=2, ge=0)
    on_branch: Literal["refuse", "last", "drop"] = "refuse"
    """Treatment of a rollout with several training sequences: refuse its group, export the last one, or drop
    the rollout."""
    truncated: Literal["mask", "score", "drop"] = "mask"
    """Treatment of a rollout cut by a token limit: mask all its tokens, train it, or drop it."""
    allow_raw_logprobs: bool = False
    """Export logprobs of the model's own distribution where the sampling distribution was another one."""

    @model_validator(mode="after")
    def _smaller_than_the_group(self) -> Self:
        if self.min_group_size is not None and self.min_group_size > self.group_size:
            raise ValueError(f"min_group_size {self.min_group_size} is above group_size {self.group_size}")
        return self


class CollectConfig(BaseModel):
    """How much to collect, and where to record it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    groups: int = Field(default=32, gt=0)
    runs_dir: Path = Path("runs")
    zero_variance: Literal["keep", "drop"] = "keep"
    """Groups whose rewards are all equal: exported, or recorded as dropped."""


class RunConfig(BaseModel):
    """One run: the schema of a YAML file. The environment validates `env` itself."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    # `name` becomes a folder below `runs_dir`: no separators and no leading dot
    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    environment: str
    env: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    policy: Annotated[PolicyConfig, BeforeValidator(expand_policy)] = PolicyConfig()
    agent: AgentConfig = AgentConfig()
    sandbox: SandboxConfig = SandboxConfig()
    collect: CollectConfig = CollectConfig()
