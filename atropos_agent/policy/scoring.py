"""Request the logprobs of given tokens from a server that did not sample them.

Servers that do not support a format still answer 200, so only the body of an answer counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import orjson

from atropos_agent.errors import MalformedReply, ServerRefused
from atropos_agent.policy.failures import SHAPE_STATUSES, refusal
from atropos_agent.policy.probing import decoded
from atropos_agent.policy.transport import Transport
from atropos_agent.policy.wires import common
from atropos_agent.policy.wires.common import Payload
from atropos_agent.trajectory import Logprobs, TokenIds

PROBE_IDS: TokenIds = np.array([1, 2, 3], np.int32)


class ScoreFormat(Protocol):
    """One request format for prompt logprobs."""

    @property
    def path(self) -> str:
        """The path of the request, from the server's root."""
        ...

    def body(self, ids: TokenIds) -> bytes:
        """The request as JSON."""
        ...

    def read(self, payload: Payload, ids: TokenIds) -> Logprobs:
        """float32[len(ids)], NaN first. Raises MalformedReply with the fault and its place."""
        ...


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """vLLM: `prompt_logprobs`, an object keyed by id for every position."""

    model: str
    path = "/v1/completions"

    def body(self, ids: TokenIds) -> bytes:
        """An id prompt, with 1 alternative: some versions read 0 as no logprobs."""
        return _with_ids("prompt", ids, {"model": self.model, "max_tokens": 1, "prompt_logprobs": 1})

    def read(self, payload: Payload, ids: TokenIds) -> Logprobs:
        """The entry of each id sent, at its position."""
        where = "choices[0].prompt_logprobs"
        listed = common.entries(common.first_choice(payload).get("prompt_logprobs"), where)
        common.require_count(len(listed), len(ids), "prompt logprobs", "ids sent")
        common.usage_counts(payload, prompt=len(ids), completion=None)
        values: list[object] = []
        for at, token in enumerate(ids.tolist()[1:], 1):
            entry = common.mapping(listed[at], f"{where}[{at}]").get(str(token))
            if entry is None:
                raise MalformedReply(f"{where}[{at}] has no entry for id {token}, which was sent")
            values.append(common.mapping(entry, f"{where}[{at}]").get("logprob"))
        return _after_first(values, where)


@dataclass(frozen=True, slots=True)
class Generate:
    """SGLang: `/generate` with `logprob_start_len: 0`, triples of logprob, id and text."""

    path = "/generate"

    def body(self, ids: TokenIds) -> bytes:
        """Input ids, and every logprob from the first on."""
        sampling = {"max_new_tokens": 1, "temperature": 1.0}
        asked = {"sampling_params": sampling, "return_logprob": True, "logprob_start_len": 0}
        return _with_ids("input_ids", ids, asked)

    def read(self, payload: Payload, ids: TokenIds) -> Logprobs:
        """The logprobs of the triples, whose ids must be those sent."""
        where = "meta_info.input_token_logprobs"
        meta = common.mapping(payload.get("meta_info"), "meta_info")
        triples = [
            common.entries(entry, where) for entry in common.entries(meta.get("input_token_logprobs"), where)
        ]
        if any(len(triple) < 2 for triple in triples):
            raise MalformedReply(f"{where} holds an entry without logprob and id")
        _require_ids([triple[1] for triple in triples], ids, where)
        return _after_first([triple[0] for triple in triples[1:]], where)


@dataclass(frozen=True, slots=True)
class Echo:
    """OpenAI's classic `echo`: the prompt is returned with its logprobs, and nothing is sampled, so that the
    number of logprobs must be that of the ids.

    If the server returns the ids too, they are compared; otherwise only the number is checked.
    """

    model: str
    path = "/v1/completions"

    def body(self, ids: TokenIds) -> bytes:
        """An id prompt to be echoed."""
        return _with_ids("prompt", ids, {"model": self.model, "max_tokens": 0, "echo": True, "logprobs": 1})

    def read(self, payload: Payload, ids: TokenIds) -> Logprobs:
        """The list, one entry for each id sent."""
        where = "choices[0].logprobs.token_logprobs"
        choice = common.first_choice(payload)
        arrays = common.mapping(choice.get("logprobs"), "choices[0].logprobs")
        listed = common.entries(arrays.get("token_logprobs"), where)
        common.require_count(len(listed), len(ids), "echoed logprobs", "ids sent")
        common.usage_counts(payload, prompt=len(ids), completion=None)
        if (told := choice.get("prompt_token_ids")) is not None:
            _require_ids(common.entries(told, "choices[0].prompt_token_ids"), ids, "prompt_token_ids")
        return _after_first([*listed[1:]], where)


async def find_score_format(transport: Transport, model: str) -> ScoreFormat | str:
    """The first format that the server answers correctly; if there is none, a text with the answer to each.

    Raises ProviderError for a temporary failure, which does not show what the server supports.
    """
    refusals: list[str] = []
    candidates: tuple[ScoreFormat, ...] = (PromptLogprobs(model), Generate(), Echo(model))
    for candidate in candidates:
        reply = await transport.send("POST", candidate.path, candidate.body(PROBE_IDS))
        url = transport.origin + candidate.path
        if not 200 <= reply.status < 300 and reply.status not in SHAPE_STATUSES:
            raise refusal(url, reply.status, reply.body, attempts=reply.attempts, model=model)
        try:
            candidate.read(decoded(reply, url, model=model), PROBE_IDS)
        except (MalformedReply, ServerRefused) as error:
            refusals.append(f"{type(candidate).__name__}: {error}")
            continue
        return candidate
    return (
        f"{transport.origin} gives no logprobs of a prompt; servers with prompt_logprobs (vLLM), /generate "
        "(SGLang) or echo do. " + " | ".join(refusals)
    )


def _with_ids(name: str, ids: TokenIds, asked: dict[str, object]) -> bytes:
    listed = orjson.dumps(np.ascontiguousarray(ids, np.int32), option=orjson.OPT_SERIALIZE_NUMPY)
    return b'{"%b":%b,%b' % (name.encode(), listed, orjson.dumps(asked)[1:])


def _require_ids(told: Sequence[object], ids: TokenIds, where: str) -> None:
    common.require_count(len(told), len(ids), f"entries of {where}", "ids sent")
    if [*told] != ids.tolist():
        raise MalformedReply(f"{where} holds other ids than were sent")


def _after_first(values: list[object], where: str) -> Logprobs:
    """NaN for the first token, which has no prefix, then `values`, checked."""
    return np.concatenate([np.full(1, np.nan, np.float32), common.logprobs(values, where)])
