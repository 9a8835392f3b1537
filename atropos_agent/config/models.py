"""The shape of a config file. Defaults here; precedence and errors in `load`."""

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
    """None for unset, empty, zero and negative: no limit."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str | int | float):
        seconds = float(value)
        return seconds if seconds > 0 else None
    return value


def expand_policy(value: object) -> object:
    """`policy: embedded` and `policy: http://...` are short for a mapping."""
    if not isinstance(value, str):
        return value
    return {"kind": "embedded"} if value == "embedded" else {"base_url": value}


Seconds = Annotated[float | None, BeforeValidator(_seconds)]


class AgentConfig(BaseModel):
    """How one rollout is sampled and bounded. Counts are per rollout unless named otherwise."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, ge=0)
    """1.0 samples from the model's own distribution, so that raw logprobs are the behaviour policy's."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0 is off."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0)
    """Sampled tokens per step; None leaves it to the context length."""
    max_steps: int = Field(default=50, gt=0)
    max_total_tokens: int | None = Field(default=None, gt=0)
    """Sampled tokens."""
    max_tool_calls: int | None = Field(default=None, ge=0)
    max_context_tokens: int | None = Field(default=None, gt=0)
    """Prompt and completion together; the server's own context length bounds it too."""
    max_wall_time_s: float | None = Field(default=None, gt=0)
    """Held against the rollout's own time and, apart, against its waiting for the server; only the first is
    the policy's doing."""
    tool_timeout_s: float = Field(default=120.0, gt=0)
    """One call; after it the policy reads that the call timed out."""
    tool_delay_s: float = Field(default=0.0, ge=0)
    max_repairs: int = Field(default=3, ge=0)
    """Steps without any valid call that are answered with an error instead of ending the rollout."""
    history: Literal["append", "template"] = "append"
    """`append` shows the policy what it sampled; `template` shows it what the chat template makes of the
    messages, and begins another training sequence where that rewrites what was shown before."""
    rescore: Literal["off", "server"] = "off"
    """`server` asks for the logprobs of tokens that came without any (text-only shapes), once a rollout."""
    system_prompt: str | None = None
    """None is the built-in prompt with the tools; a text replaces it whole."""


class PolicyConfig(BaseModel):
    """Which server answers. `embedded` is the shipped model behind llama.cpp's server in a child process."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["http", "embedded"] = "http"
    base_url: str = "http://127.0.0.1:8080/v1"
    model: str | None = None
    """None is the only model the server serves."""
    api_key: SecretStr | None = None
    tokenizer: str | None = None
    """A folder or a hub name; None is `model`."""
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
    """The request shape; None asks the server once and takes the best it really answers."""
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
    """Where model-written commands run, and how many rollouts do so at once."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    backend: Literal["auto", "native", "bubblewrap", "docker", "podman", "local"] = "auto"
    """`local` is no sandbox at all and says UNSAFE in every record."""
    image: str = ""
    """What docker and podman run; the other backends show the host's own system."""
    cpus: float | None = Field(default=None, gt=0)
    """CPUs that one sandbox may keep busy; docker and podman hold it."""
    slots: int = Field(default=16, gt=0)
    """Rollouts in flight."""
    min_idle: int = Field(default=4, ge=0)
    """Sandboxes kept ready beside those in use."""
    max_uses: int = Field(default=1, gt=0)
    """Rollouts that one sandbox serves, emptied in between; above 1 for containers, whose start is dear."""
    workspace_mb: int = Field(default=256, gt=0)
    memory_mb: int = Field(default=1024, gt=0)
    processes: int = Field(default=256, gt=1)
    cpu_s: float | None = Field(default=None, gt=0)
    """CPU time of one command with all it starts, in seconds."""
    template: str = ""
    """A directory of this machine that each workspace starts with."""
    readonly_binds: tuple[str, ...] = ()
    """Absolute paths of this machine that are shown in each sandbox, at the same path."""
    require: dict[str, str] = Field(default_factory=dict[str, str])
    """A limit that must be held "hard", or by one named mechanism, or the run is refused: `memory: hard`."""


class EnvConfig(BaseModel):
    """What every environment takes. A subclass adds fields of its own, or gives these other defaults.

    `model_fields_set` names what the run's config gives, also where it gives the default.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    group_size: int = Field(default=8, gt=0)
    min_group_size: int | None = Field(default=None, gt=0)
    """Deliver a group with at least this many scored rollouts; None is all of them."""
    tools: tuple[str, ...] = ("terminal",)
    tool_options: dict[str, dict[str, JsonValue]] = Field(default_factory=dict[str, dict[str, JsonValue]])
    """Constructor arguments by tool, e.g. {terminal: {timeout_s: 120}}."""
    max_observation_chars: int = Field(default=16_000, ge=200)
    """What one call may tell the policy; head and tail are kept."""
    infrastructure_retries: int = Field(default=2, ge=0)
    on_branch: Literal["refuse", "last", "drop"] = "refuse"
    """What becomes of a rollout with several training sequences in a delivered group."""
    truncated: Literal["mask", "score", "drop"] = "mask"
    """What becomes of a rollout that a token limit cut: its loss is masked, trained, or it is left out."""
    allow_raw_logprobs: bool = False
    """Deliver logprobs of the model's own distribution where another was sampled from."""

    @model_validator(mode="after")
    def _smaller_than_the_group(self) -> Self:
        if self.min_group_size is not None and self.min_group_size > self.group_size:
            raise ValueError(f"min_group_size {self.min_group_size} is above group_size {self.group_size}")
        return self


class CollectConfig(BaseModel):
    """How much is collected, and where the record goes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    groups: int = Field(default=32, gt=0)
    runs_dir: Path = Path("runs")
    zero_variance: Literal["keep", "drop"] = "keep"
    """Groups whose rewards are all equal: delivered, or recorded as dropped."""


class RunConfig(BaseModel):
    """One run, as a YAML file holds it. `env` is validated by the environment itself."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    environment: str
    env: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    policy: Annotated[PolicyConfig, BeforeValidator(expand_policy)] = PolicyConfig()
    agent: AgentConfig = AgentConfig()
    sandbox: SandboxConfig = SandboxConfig()
    collect: CollectConfig = CollectConfig()
