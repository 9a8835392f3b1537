"""`/v1/completions` with a text prompt: rendered text in, raw text out, no ids. The text is retokenized."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.trajectory import Completion, SamplingParams


@dataclass(frozen=True, slots=True)
class TextFormat:
    """`POST /v1/completions` with a text prompt that already holds its special tokens."""

    model: str
    extended: bool = True
    wire = Wire.TEXT
    path = "/v1/completions"

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request. It asks an `extended` server to add no special tokens and to strip none."""
        asked: dict[str, object] = {
            "model": self.model,
            "prompt": prompt.text,
            **common.openai_sampling(sampling, extended=self.extended),
        }
        if sampling.max_tokens is not None or self.extended:
            asked["max_tokens"] = sampling.max_tokens
        if self.extended:
            asked["add_special_tokens"] = False
            asked["skip_special_tokens"] = False
        return orjson.dumps(asked)

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion, text only."""
        choice = common.first_choice(payload)
        prompt_tokens, completion_tokens = common.usage_counts(payload, prompt=None, completion=None)
        return Completion(
            text=common.string(choice.get("text"), "choices[0].text"),
            finish_reason=common.finish_reason(choice.get("finish_reason"), "choices[0].finish_reason"),
            usage_prompt_tokens=prompt_tokens,
            usage_completion_tokens=completion_tokens,
            sampling=asked.sampling,
            timings=asked.timings,
            model=common.model_of(payload, self.model),
        )
