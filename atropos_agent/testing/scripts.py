"""A FakeServer described by a file: its answers and faults, turn by turn."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from atropos_agent.config import validate
from atropos_agent.errors import ConfigError
from atropos_agent.policy.protocol import Wire
from atropos_agent.testing.codecs import TokenizerCodec
from atropos_agent.testing.fake_answers import Fault
from atropos_agent.testing.fake_policy import FakeReply
from atropos_agent.testing.fake_scores import Scoring
from atropos_agent.testing.fake_server import CONTEXT_LENGTH, MODEL, FakeAsk, FakeServer
from atropos_agent.trajectory import FinishReason, LogprobMode


class Turn(BaseModel):
    """One answer: a text, or a fault. `message` and `weight_versions` are those of FakeReply."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    finish_reason: FinishReason = FinishReason.STOP
    delay_s: float = Field(default=0.0, ge=0)
    message: dict[str, JsonValue] | None = None
    weight_versions: dict[str, int] = Field(default_factory=dict[str, int])
    fault: Fault | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.fault is not None and self.model_fields_set - {"fault"}:
            raise ValueError("a turn is a text or a fault, not both")
        return self

    def played(self) -> FakeReply | Fault:
        """The turn in the form that a FakeServer takes."""
        return self.fault or FakeReply(
            self.text,
            self.finish_reason,
            delay_s=self.delay_s,
            message=self.message,
            weight_versions=self.weight_versions,
        )


class ServerScript(BaseModel):
    """The settings and answers of a scripted server. A turn may be written as its text alone."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    turns: tuple[Turn | str, ...] = Field(min_length=1)
    """The answers to each session (header X-Session-ID), in order; after the last one, the first again."""
    without_session: str = "ok"
    """The answer to requests without a session, such as those of a probe."""
    wire: Literal[
        "llama.cpp", "sglang", "vllm", "vllm-generate", "chat+ids", "chat+logprobs", "text", "chat"
    ] = "llama.cpp"
    """The best request format that it supports."""
    tokenizer: Path | None = None
    """A `tokenizer.json` or its folder; None: one token per byte."""
    stop_token: str = "<|im_end|>"  # noqa: S105 - a token of a vocabulary
    model: str = MODEL
    context_length: int = Field(default=CONTEXT_LENGTH, gt=0)
    delay_s: float = Field(default=0.0, ge=0)
    retry_after_s: float | None = Field(default=None, ge=0)
    logprob_mode: LogprobMode = LogprobMode.RAW
    scoring: Scoring | None = None
    """The format of prompt logprobs; None: it returns none."""

    def server(self) -> FakeServer:
        """The server, not started. Raises ConfigError if the tokenizer cannot be loaded."""
        codec = None if self.tokenizer is None else _codec(self.tokenizer)
        played = [turn if isinstance(turn, str) else turn.played() for turn in self.turns]

        def script(ask: FakeAsk) -> str | FakeReply | Fault:
            return played[(ask.turn - 1) % len(played)] if ask.session else self.without_session

        return FakeServer(
            script,
            codec,
            wire=Wire(self.wire),
            stop_id=None if codec is None else codec.token_id(self.stop_token),
            model=self.model,
            context_length=self.context_length,
            delay_s=self.delay_s,
            retry_after_s=self.retry_after_s,
            logprob_mode=self.logprob_mode,
            scoring=self.scoring,
            record=False,
        )


def load_server_script(path: Path) -> ServerScript:
    """Read a YAML or JSON file. Raises ConfigError with the file, the place, and the possible values."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the script {path}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping with `turns`, got {type(tree).__name__}")
    return validate(ServerScript, tree, source=str(path))


def _codec(tokenizer: Path) -> TokenizerCodec:
    try:
        return TokenizerCodec(tokenizer)
    except Exception as error:  # the tokenizers library raises a plain Exception for any fault
        raise ConfigError(f"no tokenizer from {tokenizer}: {error}; give a tokenizer.json") from error
