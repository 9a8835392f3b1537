"""Every misbehaviour of a server, in every shape: the right typed error, or a record that says what it is.

The first turn of each rollout is whole; the fault meets the second.
"""

from collections.abc import Mapping

import numpy as np
import pytest

from atropos_agent.agent import AtroposAgent
from atropos_agent.config import AgentConfig
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakeServer, Fault
from atropos_agent.toolset import ToolRegistry
from atropos_agent.trajectory import AgentResult
from tests.agent.test_agent_wires import Echo
from tests.tokenizers_for_tests import tokenizer_for

RENDERER = Renderer(tokenizer_for("chatml"), marks=HERMES_MARKS)
STOP = int(RENDERER.certificate.close_ids[0])
CALL = '<tool_call>{"name": "echo", "arguments": {"text": "hi"}}</tool_call>'

IDS_IN = (Wire.LLAMA_CPP, Wire.SGLANG, Wire.VLLM, Wire.VLLM_GENERATE)
IDS_OUT = (*IDS_IN, Wire.CHAT_IDS)
WITH_LOGPROBS = (*IDS_OUT, Wire.CHAT_LOGPROBS)
TEXT_ONLY = (Wire.TEXT, Wire.CHAT)
WIRES = (*WITH_LOGPROBS, *TEXT_ONLY)

SAMPLED = "as sampled"
SCORED = "with the right ids and logprobs"
UNSCORED = "with the right ids, without logprobs"
RETOKENIZED = "retokenized, without logprobs"


def everywhere(outcome: str) -> Mapping[Wire, str]:
    return dict.fromkeys(WIRES, outcome)


def split(*parts: tuple[tuple[Wire, ...], str]) -> Mapping[Wire, str]:
    return {wire: outcome for wires, outcome in parts for wire in wires}


MALFORMED_LOGPROB = split((WITH_LOGPROBS, "MalformedReply"), (TEXT_ONLY, RETOKENIZED))
OUTCOMES: Mapping[Fault, Mapping[Wire, str]] = {
    Fault.STALL: everywhere("RequestTimeout"),
    Fault.STALL_MID_BODY: everywhere("RequestTimeout"),
    Fault.RESET: everywhere("ServerUnreachable"),
    Fault.CUT_BODY: everywhere("MalformedReply"),
    Fault.BUSY: everywhere("ServerRefused"),
    Fault.INTERNAL_ERROR: everywhere("ServerRefused"),
    Fault.BAD_REQUEST: everywhere("ServerRefused"),
    Fault.UNAUTHORIZED: everywhere("ServerRefused"),
    Fault.MODEL_NOT_FOUND: everywhere("ModelNotFound"),
    Fault.CONTEXT_OVERFLOW: everywhere("ContextOverflow"),
    Fault.HTML: everywhere("MalformedReply"),
    Fault.EMPTY_CHOICES: everywhere("MalformedReply"),
    Fault.NO_FINISH_REASON: everywhere("MalformedReply"),
    # no text is asked for or needed where ids say it all
    Fault.NULL_CONTENT: {**everywhere("MalformedReply"), Wire.VLLM_GENERATE: SAMPLED},
    Fault.MISSING_IDS: split((WITH_LOGPROBS, "MalformedReply"), (TEXT_ONLY, RETOKENIZED)),
    Fault.MISSING_LOGPROB: split(
        (IDS_OUT, "MalformedReply"), ((Wire.CHAT_LOGPROBS, *TEXT_ONLY), RETOKENIZED)
    ),
    Fault.NULL_LOGPROB: MALFORMED_LOGPROB,
    Fault.SENTINEL_LOGPROB: MALFORMED_LOGPROB,
    Fault.POSITIVE_LOGPROB: MALFORMED_LOGPROB,
    Fault.NAN_LOGPROB: MALFORMED_LOGPROB,
    # a server that renders the prompt itself may have shown another: its logprobs belong to that one
    Fault.WRONG_PROMPT_USAGE: split(
        (IDS_OUT, "MalformedReply"), ((Wire.CHAT_LOGPROBS,), UNSCORED), (TEXT_ONLY, RETOKENIZED)
    ),
    Fault.WRONG_COMPLETION_USAGE: split(
        (IDS_OUT, "MalformedReply"), ((Wire.CHAT_LOGPROBS, *TEXT_ONLY), RETOKENIZED)
    ),
    Fault.DOUBLED_END: split((IDS_OUT, "MalformedReply"), ((Wire.CHAT_LOGPROBS, *TEXT_ONLY), RETOKENIZED)),
}
CASES = [(fault, wire) for fault, outcomes in OUTCOMES.items() for wire in outcomes]


async def converse(wire: Wire, second: str | Fault) -> AgentResult:
    async with FakeServer(
        lambda ask: CALL if ask.turn == 1 or not ask.session else second,
        RENDERER,
        wire=wire,
        stop_id=STOP,
        render=lambda messages: RENDERER.render(messages).text,
    ) as fake:
        limit_s = 0.5 if second in (Fault.STALL, Fault.STALL_MID_BODY) else None
        policy = HttpPolicy(fake.url, max_attempts=2, request_timeout_s=limit_s)
        agent = AtroposAgent(policy, ToolRegistry([Echo()]), AgentConfig(max_tokens=64), RENDERER)
        result = await agent.run("do it", rollout_id="r")
        await policy.aclose()
    return result


def recorded(result: AgentResult, truth: AgentResult) -> str:
    """What the record of the second turn is, in the words of the table; it must hold the true tokens."""
    ours, true = [
        np.concatenate([data.token_ids[data.mask] for data in one.sequences]) for one in (result, truth)
    ]
    assert np.array_equal(ours, true)
    step, data = result.steps[1], result.sequences[-1]
    assert step.span is not None
    logprobs = data.logprobs[step.span.start : step.span.end]
    provenance = step.span.provenance.value
    if np.isnan(logprobs).all():
        return RETOKENIZED if provenance == "retokenized" else UNSCORED
    true_step = truth.steps[1].span
    assert true_step is not None
    assert np.array_equal(logprobs, truth.sequences[-1].logprobs[true_step.start : true_step.end])
    return SAMPLED if provenance == "sampled" else SCORED


def test_every_fault_in_every_shape_has_a_row():
    assert set(OUTCOMES) == set(Fault)
    assert all(set(outcomes) == set(WIRES) for outcomes in OUTCOMES.values())
    assert set(WIRES) == set(Wire) - {Wire.IN_PROCESS}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "wire"), CASES)
async def test_a_fault_ends_in_its_typed_error_or_in_a_record_that_says_what_it_is(fault, wire):
    result, truth = await converse(wire, fault), await converse(Wire.VLLM, "ok")
    expected = OUTCOMES[fault][wire]
    if expected not in (SAMPLED, SCORED, UNSCORED, RETOKENIZED):
        assert (result.error_type, result.num_steps) == (expected, 1)
        assert [span.step_number for data in result.sequences for span in data.spans] == [1]
        return
    assert result.error_type is None
    assert recorded(result, truth) == expected
