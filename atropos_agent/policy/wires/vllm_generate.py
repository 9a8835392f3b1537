"""vLLM's token-in, token-out `/inference/v1/generate`; it also returns the weight versions.

Available only if the server was started with `--enable-scale-out`.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.policy.wires.weight_versions import read_versions
from atropos_agent.trajectory import Completion, LogprobMode, SamplingParams


@dataclass(frozen=True, slots=True)
class VllmGenerateFormat:
    """`POST /inference/v1/generate`: no text is sent or returned."""

    model: str
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    truncation_shows: bool = False
    alternatives: int = 0
    wire = Wire.VLLM_GENERATE
    path = "/inference/v1/generate"

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request; without `max_tokens` the limit is the context length."""
        asked = common.openai_sampling(sampling, extended=True)
        del asked["stream"]  # here it is not a sampling parameter; it is set beside them below
        asked |= {"logprobs": self.alternatives, "skip_special_tokens": False}
        if sampling.max_tokens is not None:
            asked["max_tokens"] = sampling.max_tokens
        rest = {"model": self.model, "sampling_params": asked, "stream": False}
        return b'{"token_ids":[%b],%b' % (prompt.encoded_ids, orjson.dumps(rest)[1:])

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion, without text; a sampled stop token is among its ids."""
        choice = common.first_choice(payload)
        ids = common.token_ids(choice.get("token_ids"), "choices[0].token_ids")
        listed = _entries(choice)
        values = common.logprobs([entry.get("logprob") for entry in listed], "logprobs.content.logprob")
        return common.sampled(
            asked,
            text="",
            ids=ids,
            values=values,
            finish=common.finish_reason(choice.get("finish_reason"), "choices[0].finish_reason"),
            mode=common.mode_of(self.logprob_mode, asked.sampling, self.truncation_shows),
            usage=common.usage_counts(payload, prompt=asked.prompt_tokens, completion=len(ids)),
            model=self.model,
            versions=read_versions(payload, len(ids)),
        )


def top_logprobs(payload: Payload) -> dict[str, float]:
    """The alternatives at the first sampled position, by token id."""
    listed = _entries(common.first_choice(payload))
    found = common.entries(listed[0].get("top_logprobs") if listed else None, "top_logprobs")
    named = [common.mapping(entry, "top_logprobs[]") for entry in found]
    return {
        str(entry.get("token_id")): value
        for entry in named
        if isinstance(value := entry.get("logprob"), float)
    }


def _entries(choice: Payload) -> list[Payload]:
    found = common.mapping(choice.get("logprobs"), "choices[0].logprobs")
    listed = common.entries(found.get("content"), "choices[0].logprobs.content")
    return [common.mapping(entry, "choices[0].logprobs.content[]") for entry in listed]
