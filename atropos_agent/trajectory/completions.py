"""One completion: how it was sampled, what the server reported of its tokens, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from atropos_agent.trajectory._lengths import require_equal
from atropos_agent.trajectory.tools import ToolCall
from atropos_agent.trajectory.values import Logprobs, TokenIds


class Provenance(StrEnum):
    """Where the token ids of a step come from."""

    SAMPLED = "sampled"
    FROM_LOGPROBS = "from_logprobs"
    RETOKENIZED = "retokenized"


class LogprobProvenance(StrEnum):
    """Where the logprobs of a step come from."""

    SAMPLED = "sampled"
    RESCORED = "rescored"
    ABSENT = "absent"


class LogprobMode(StrEnum):
    """Which distribution a logprob belongs to: the model's own, or the one sampled from."""

    RAW = "raw"
    PROCESSED = "processed"
    UNKNOWN = "unknown"


class FinishReason(StrEnum):
    """Why the server stopped generating."""

    STOP = "stop"
    LENGTH = "length"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a completion is sampled. Requests set every other sampling option to its neutral value.

    With `max_tokens=None` the server and the context length bound the completion.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    seed: int | None = None

    @property
    def is_neutral(self) -> bool:
        """True where raw logprobs are those of the sampling distribution."""
        return self.temperature == 1.0 and not self.truncates

    @property
    def truncates(self) -> bool:
        """True where some tokens cannot be sampled at all."""
        return self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that one completion waited for our own semaphore and for the server; requests made."""

    queued_s: float = 0.0
    request_s: float = 0.0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class CompletionPart:
    """A run of sampled tokens under one request and one version of the weights.

    `start` is the index of its first token in the completion; it ends where the next part begins. Values
    that are not known for the part alone are None.
    """

    start: int
    weight_version: str | None = None
    finish_reason: FinishReason | None = None
    usage_prompt_tokens: int | None = None
    usage_completion_tokens: int | None = None
    timings: Timings | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One completion as the server reported it.

    `token_ids` int32[n] and `logprobs` float32[n] (NaN where the server gave none) include a sampled stop
    token if the server reported it. Both are None where the server gives no ids. A server that names its
    sampled tokens only by their bytes fills `token_bytes` instead of `token_ids`. `text` has the final
    end-of-turn cut. `prompt_token_ids` is set only where the server rendered the prompt itself.

    `reasoning` and `calls` are what the server parsed out of the text itself; empty where it did not.
    `parts` is empty where one request under one weight version made the whole completion. `weight_version`
    is that of the last part.
    """

    text: str
    token_ids: TokenIds | None = None
    token_bytes: tuple[bytes, ...] | None = None
    logprobs: Logprobs | None = None
    finish_reason: FinishReason = FinishReason.STOP
    provenance: Provenance = Provenance.RETOKENIZED
    logprob_provenance: LogprobProvenance = LogprobProvenance.ABSENT
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    prompt_token_ids: TokenIds | None = None
    usage_prompt_tokens: int | None = None
    usage_completion_tokens: int | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    timings: Timings = field(default_factory=Timings)
    model: str = ""
    weight_version: str | None = None
    notes: tuple[str, ...] = ()
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    parts: tuple[CompletionPart, ...] = ()

    def __post_init__(self) -> None:
        tokens = self.token_ids if self.token_ids is not None else self.token_bytes
        if tokens is not None and self.logprobs is not None:
            require_equal("Completion", tokens=len(tokens), logprobs=len(self.logprobs))
