"""Every fault of a server, on every wire, is the right typed failure of that one request."""

import pytest

from atropos_agent.errors import (
    ContextOverflow,
    MalformedReply,
    ModelNotFound,
    ProviderError,
    RequestTimeout,
    ServerRefused,
    ServerUnreachable,
)
from atropos_agent.policy.http import HttpPolicy
from atropos_agent.policy.protocol import RequestInfo, Wire
from atropos_agent.testing import FakeServer, Fault
from atropos_agent.trajectory import SamplingParams

SAMPLING = SamplingParams(max_tokens=50)
STEP = RequestInfo("rollout-7", 3)
ID_WIRES = (Wire.LLAMA_CPP, Wire.SGLANG, Wire.VLLM)
TOKEN_WIRES = (*ID_WIRES, Wire.CHAT_IDS, Wire.CHAT_LOGPROBS)
ALL_WIRES = (*TOKEN_WIRES, Wire.TEXT, Wire.CHAT)

EXPECTED: dict[Fault, tuple[tuple[Wire, ...], type[ProviderError], str]] = {
    Fault.STALL: (ALL_WIRES, RequestTimeout, "no answer from .* within 0.3 s"),
    Fault.STALL_MID_BODY: (ALL_WIRES, RequestTimeout, "no answer from .* within 0.3 s"),
    Fault.RESET: (ALL_WIRES, ServerUnreachable, "2 attempts"),
    Fault.CUT_BODY: (ALL_WIRES, MalformedReply, "2 attempts"),
    Fault.BUSY: (ALL_WIRES, ServerRefused, "429.*attempt 2"),
    Fault.INTERNAL_ERROR: (ALL_WIRES, ServerRefused, "500.*engine died"),
    Fault.BAD_REQUEST: (ALL_WIRES, ServerRefused, "400: .*bad parameter"),
    Fault.UNAUTHORIZED: (ALL_WIRES, ServerRefused, "401"),
    Fault.MODEL_NOT_FOUND: (ALL_WIRES, ModelNotFound, "404"),
    Fault.CONTEXT_OVERFLOW: (ALL_WIRES, ContextOverflow, "context"),
    Fault.HTML: (ALL_WIRES, MalformedReply, "did not answer JSON.*It works"),
    Fault.EMPTY_CHOICES: (ALL_WIRES, MalformedReply, "choices is empty|tokens is None|meta_info is None"),
    Fault.NULL_CONTENT: (ALL_WIRES, MalformedReply, "content|text"),
    Fault.NO_FINISH_REASON: (ALL_WIRES, MalformedReply, "finish_reason|stop_type"),
    Fault.MISSING_IDS: (TOKEN_WIRES, MalformedReply, "tokens|token_ids|logprobs"),
    Fault.MISSING_LOGPROB: (
        (*ID_WIRES, Wire.CHAT_IDS),
        MalformedReply,
        "logprobs for|probabilit|output_ids differ",
    ),
    Fault.NULL_LOGPROB: (TOKEN_WIRES, MalformedReply, "is None: not a logprob"),
    Fault.SENTINEL_LOGPROB: (TOKEN_WIRES, MalformedReply, "-9999.0: not a logprob"),
    Fault.POSITIVE_LOGPROB: (TOKEN_WIRES, MalformedReply, "0.7: not a logprob"),
    Fault.NAN_LOGPROB: (TOKEN_WIRES, MalformedReply, "did not answer JSON"),
    Fault.WRONG_PROMPT_USAGE: ((*ID_WIRES, Wire.CHAT_IDS), MalformedReply, "for 9 prompt ids"),
    Fault.WRONG_COMPLETION_USAGE: ((*ID_WIRES, Wire.CHAT_IDS), MalformedReply, "for 3 sampled ids"),
}
LIMITS_S = {Fault.STALL: 0.3, Fault.STALL_MID_BODY: 0.3}
CASES = [(fault, wire) for fault, (wires, _, _) in EXPECTED.items() for wire in wires]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "wire"), CASES)
async def test_a_fault_is_a_typed_failure_and_the_next_request_works(fault, wire, prompt):
    _, error_type, text = EXPECTED[fault]
    faulty = True
    async with (
        FakeServer(lambda ask: fault if ask.session and faulty else "ok", wire=wire) as server,
        HttpPolicy(server.url, max_attempts=2, request_timeout_s=LIMITS_S.get(fault)) as policy,
    ):
        with pytest.raises(error_type, match=text) as caught:
            await policy.complete(prompt, SAMPLING, request=STEP)
        assert type(caught.value) is error_type
        assert server.url in str(caught.value)
        faulty = False
        assert (await policy.complete(prompt, SAMPLING, request=STEP)).text == "ok"


@pytest.mark.parametrize("wire", ALL_WIRES)
async def test_only_faults_that_may_pass_are_tried_again(wire, prompt):
    async def requests_for(fault: Fault) -> int:
        async with (
            FakeServer(lambda ask: fault if ask.session else "ok", wire=wire) as server,
            HttpPolicy(server.url, max_attempts=2) as policy,
        ):
            await policy.probe()
            before = server.requests
            with pytest.raises(ProviderError):
                await policy.complete(prompt, SAMPLING, request=STEP)
            return server.requests - before

    counts = {fault: await requests_for(fault) for fault in (Fault.BAD_REQUEST, Fault.HTML, Fault.CUT_BODY)}
    assert counts == {Fault.BAD_REQUEST: 1, Fault.HTML: 1, Fault.CUT_BODY: 2}


async def test_a_missing_entry_of_chat_logprobs_lowers_the_provenance(prompt):
    async with (
        FakeServer(
            lambda ask: Fault.MISSING_LOGPROB if ask.session else "ok", wire=Wire.CHAT_LOGPROBS
        ) as server,
        HttpPolicy(server.url) as policy,
    ):
        completion = await policy.complete(prompt, SAMPLING, request=STEP)
    assert completion.token_ids is None
    assert completion.logprobs is None
    assert completion.notes == ("token_entries_incomplete",)
