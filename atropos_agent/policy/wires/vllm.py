"""vLLM's `/v1/completions` with an id prompt, `return_token_ids` and classic logprob arrays."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.policy.wires.weight_versions import read_versions
from atropos_agent.trajectory import Completion, LogprobMode, SamplingParams


@dataclass(frozen=True, slots=True)
class VllmFormat:
    """`POST /v1/completions`, ids in, ids out. `alternatives` asks for the top tokens too (named by id)."""

    model: str
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    truncation_shows: bool = False
    alternatives: int = 0
    wire = Wire.VLLM
    path = "/v1/completions"

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request; `max_tokens: null` means up to the context length."""
        asked = {
            "model": self.model,
            "max_tokens": sampling.max_tokens,
            "logprobs": self.alternatives,
            "return_token_ids": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            **common.openai_sampling(sampling, extended=True),
        }
        if self.alternatives:  # named by text, two tokens that are parts of one character would collide
            asked["return_tokens_as_token_ids"] = True
        return b'{"prompt":[%b],%b' % (prompt.encoded_ids, orjson.dumps(asked)[1:])

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion; a sampled stop token is among its ids."""
        choice = common.first_choice(payload)
        ids = common.token_ids(choice.get("token_ids"), "choices[0].token_ids")
        arrays = common.mapping(choice.get("logprobs"), "choices[0].logprobs")
        listed = common.entries(arrays.get("token_logprobs"), "choices[0].logprobs.token_logprobs")
        values = common.logprobs([*listed], "choices[0].logprobs.token_logprobs")
        return common.sampled(
            asked,
            text=common.string(choice.get("text"), "choices[0].text"),
            ids=ids,
            values=values,
            finish=common.finish_reason(choice.get("finish_reason"), "choices[0].finish_reason"),
            mode=common.mode_of(self.logprob_mode, asked.sampling, self.truncation_shows),
            usage=common.usage_counts(payload, prompt=asked.prompt_tokens, completion=len(ids)),
            model=common.model_of(payload, self.model),
            versions=read_versions(payload, len(ids)),
        )


def top_logprobs(payload: Payload) -> dict[str, float]:
    """The alternatives at the first sampled position, by token name."""
    arrays = common.mapping(common.first_choice(payload).get("logprobs"), "choices[0].logprobs")
    first = common.entries(arrays.get("top_logprobs"), "choices[0].logprobs.top_logprobs")
    found = common.mapping(first[0] if first else None, "choices[0].logprobs.top_logprobs[0]")
    return {name: value for name, value in found.items() if isinstance(value, float)}
