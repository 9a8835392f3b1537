import numpy as np
import pytest

from atropos_agent.errors import MalformedReply, ProviderError, ServerRefused, ServerUnreachable
from atropos_agent.policy import HttpPolicy, Scorer, Wire
from atropos_agent.policy.scoring import PROBE_IDS
from atropos_agent.testing import FakeServer
from atropos_agent.testing.fake_answers import Fault
from atropos_agent.testing.fake_policy import fake_logprobs
from atropos_agent.testing.fake_scores import Scoring

IDS = np.array([7, 40, 41, 42, 3], np.int32)
WAYS = [*Scoring]


def scoring_after(fault):
    """A script that goes wrong once it is known how the server scores."""
    return lambda ask: fault if is_about(ask, IDS) else "ok"


def is_about(ask, ids):
    return ids.tolist() in (ask.payload.get("prompt"), ask.payload.get("input_ids"))


@pytest.mark.parametrize("way", WAYS)
async def test_every_id_but_the_first_has_the_logprob_that_the_server_tells(way):
    async with (
        FakeServer(lambda ask: "ok", wire=Wire.TEXT, scoring=way) as server,
        HttpPolicy(server.url) as policy,
    ):
        assert isinstance(policy, Scorer)
        values = await policy.score(IDS)
    assert values.dtype == np.float32
    assert np.isnan(values[0])
    assert np.array_equal(values[1:], fake_logprobs(IDS)[1:])


@pytest.mark.parametrize("way", WAYS)
async def test_how_a_server_scores_is_found_out_once(way):
    async with (
        FakeServer(lambda ask: "ok", wire=Wire.TEXT, scoring=way) as server,
        HttpPolicy(server.url) as policy,
    ):
        for _ in range(3):
            await policy.score(IDS)
        assert sum(is_about(ask, IDS) for ask in server.asks) == 3
        assert sum(is_about(ask, PROBE_IDS) for ask in server.asks) == 1 + (
            way is not Scoring.PROMPT_LOGPROBS
        )


@pytest.mark.parametrize("wire", [Wire.LLAMA_CPP, Wire.VLLM, Wire.TEXT, Wire.CHAT])
async def test_a_server_that_ignores_the_question_is_refused_by_its_body_and_asked_once(wire):
    async with FakeServer(lambda ask: "ok", wire=wire) as server, HttpPolicy(server.url) as policy:
        for _ in range(2):
            with pytest.raises(ProviderError, match="gives no logprobs of a prompt") as raised:
                await policy.score(IDS)
            for name in ("PromptLogprobs: ", "Generate: ", "Echo: "):
                assert name in str(raised.value)
        assert not any(is_about(ask, IDS) for ask in server.asks)


FAULTS = [
    (Fault.MISSING_LOGPROB, MalformedReply, "4 "),
    (Fault.NULL_LOGPROB, MalformedReply, "not a logprob|not a number"),
    (Fault.SENTINEL_LOGPROB, MalformedReply, "-9999"),
    (Fault.POSITIVE_LOGPROB, MalformedReply, "0.7"),
    (Fault.MISSING_IDS, MalformedReply, "other ids than were sent|no entry for id 40"),
    (Fault.HTML, MalformedReply, "did not answer JSON"),
    (Fault.CUT_BODY, MalformedReply, "cut its answer"),
    (Fault.BAD_REQUEST, ServerRefused, "bad parameter"),
    (Fault.INTERNAL_ERROR, ServerRefused, "engine died"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fault", "error", "said"), FAULTS)
async def test_no_wrong_answer_becomes_a_logprob(way, fault, error, said):
    async with (
        FakeServer(scoring_after(fault), wire=Wire.TEXT, scoring=way) as server,
        HttpPolicy(server.url, max_attempts=1) as policy,
    ):
        with pytest.raises(error, match=said):
            await policy.score(IDS)


@pytest.mark.parametrize("way", [Scoring.PROMPT_LOGPROBS, Scoring.ECHO])
@pytest.mark.parametrize(
    ("fault", "said"),
    [(Fault.WRONG_PROMPT_USAGE, "usage.prompt_tokens is 6"), (Fault.EMPTY_CHOICES, "empty")],
)
async def test_an_openai_answer_is_checked_as_a_whole(way, fault, said):
    async with (
        FakeServer(scoring_after(fault), wire=Wire.TEXT, scoring=way) as server,
        HttpPolicy(server.url) as policy,
    ):
        with pytest.raises(MalformedReply, match=said):
            await policy.score(IDS)


async def test_a_server_that_is_busy_while_it_is_asked_how_it_scores_is_asked_again():
    faults = iter([Fault.BUSY])
    async with (
        FakeServer(
            lambda ask: next(faults, "ok") if is_about(ask, PROBE_IDS) else "ok",
            wire=Wire.TEXT,
            scoring=Scoring.PROMPT_LOGPROBS,
        ) as server,
        HttpPolicy(server.url, max_attempts=1) as policy,
    ):
        with pytest.raises(ServerRefused, match="429"):
            await policy.score(IDS)
        assert np.isfinite((await policy.score(IDS))[1:]).all()


async def test_nothing_is_asked_for_less_than_two_ids():
    async with HttpPolicy("http://127.0.0.1:9") as policy:
        assert len(await policy.score(IDS[:0])) == 0
        assert np.isnan(await policy.score(IDS[:1])).all()
        with pytest.raises(ServerUnreachable):
            await policy.score(IDS)
