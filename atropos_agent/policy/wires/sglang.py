"""SGLang's native `/generate`: ids in, ids out, each with its logprob.

Logprobs are those of the model's distribution at the request's temperature, or at temperature 1 if the
server runs with SGLANG_RETURN_ORIGINAL_LOGPROB. Neither includes truncation of the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from atropos_agent.errors import MalformedReply
from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Asked, Payload
from atropos_agent.policy.wires.weight_versions import read_versions
from atropos_agent.trajectory import Completion, LogprobMode, SamplingParams


@dataclass(frozen=True, slots=True)
class SglangFormat:
    """`POST /generate` with `input_ids` and `return_logprob`. Older servers take no seed: `seeded` False."""

    model: str
    logprob_mode: LogprobMode = LogprobMode.UNKNOWN
    truncation_shows: bool = False
    seeded: bool = True
    alternatives: int = 0
    wire = Wire.SGLANG
    path = "/generate"

    def body(self, prompt: Prompt, sampling: SamplingParams) -> bytes:
        """The request; `max_new_tokens: null` means up to the context length."""
        asked: dict[str, object] = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k if sampling.top_k > 0 else -1,
            "min_p": sampling.min_p,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "min_new_tokens": 0,
            "n": 1,
            "ignore_eos": False,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
        }
        if sampling.seed is not None and self.seeded:
            asked["sampling_seed"] = sampling.seed
        # the texts of tokens are not requested: the server would decode each of them
        rest = {
            "sampling_params": asked,
            "return_logprob": True,
            "top_logprobs_num": self.alternatives,
            "return_text_in_logprobs": False,
            "stream": False,
        }
        return b'{"input_ids":[%b],%b' % (prompt.encoded_ids, orjson.dumps(rest)[1:])

    def read(self, payload: Payload, asked: Asked) -> Completion:
        """The completion; a sampled stop token is among its ids."""
        meta = common.mapping(payload.get("meta_info"), "meta_info")
        where = "meta_info.output_token_logprobs"
        values, ids = _columns(common.entries(meta.get("output_token_logprobs"), where), where)
        sampled = common.token_ids(ids, where)
        if "output_ids" in payload and common.entries(payload["output_ids"], "output_ids") != ids:
            raise MalformedReply(f"output_ids differ from the ids of {where}")
        finish = common.mapping(meta.get("finish_reason"), "meta_info.finish_reason")
        return common.sampled(
            asked,
            text=common.string(payload.get("text"), "text"),
            ids=sampled,
            values=common.logprobs(values, where),
            finish=common.finish_reason(finish.get("type"), "meta_info.finish_reason.type"),
            mode=common.mode_of(self.logprob_mode, asked.sampling, self.truncation_shows),
            usage=common.usage_counts({"usage": meta}, prompt=asked.prompt_tokens, completion=len(sampled)),
            model=self.model,
            versions=read_versions(meta, len(sampled)),
        )


def top_logprobs(payload: Payload) -> dict[str, float]:
    """The alternatives at the first sampled position, by token id."""
    where = "meta_info.output_top_logprobs"
    meta = common.mapping(payload.get("meta_info"), "meta_info")
    first = common.entries(meta.get("output_top_logprobs"), where)[:1]
    values, ids = _columns(common.entries(first[0] if first else None, f"{where}[0]"), where)
    return {str(token): value for token, value in zip(ids, values, strict=True) if isinstance(value, float)}


def _columns(listed: list[Payload], where: str) -> tuple[list[object], list[object]]:
    """Values and ids of entries `[logprob, id, text]`."""
    try:
        return [entry[0] for entry in listed], [entry[1] for entry in listed]  # type: ignore[index]
    except (TypeError, LookupError):
        raise MalformedReply(f"{where} has an entry that is not [logprob, id, text]") from None
