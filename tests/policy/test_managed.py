"""Server objects in atroposlib's style, told apart by what they can do."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from atropos_agent.config import DebugSettings
from atropos_agent.errors import ConfigError, MalformedReply, ProviderError
from atropos_agent.policy import HttpPolicy, ManagedPolicy, Policy, Wire
from atropos_agent.testing import FakeServer
from atropos_agent.trajectory import FinishReason, Provenance, SamplingParams
from tests.completions import ids_of, logprobs_of, prompt_ids_of

SAMPLING = SamplingParams(max_tokens=20)


class FakeChatOnly:
    """An endpoint that gives text and nothing else."""

    def __init__(self, content: str | None = "hello", reasoning=None, choices=1):
        self.asked = []
        self.servers = []
        message = SimpleNamespace(content=content, reasoning=reasoning)
        self.choices = [SimpleNamespace(message=message, finish_reason="stop")] * choices

    async def chat_completion(self, **asked):
        self.asked.append(asked)
        return SimpleNamespace(choices=self.choices)


class FakeSession(FakeChatOnly):
    """A managed session: every completion leaves a node."""

    def __init__(self, node, **chat):
        super().__init__(**chat)
        self.node = node
        self.nodes = [{"full_text": "another", "tokens": [1], "masked_tokens": [1], "logprobs": [-1.0]}]

    async def chat_completion(self, **asked):
        self.nodes.append(dict(self.node))
        return await super().chat_completion(**asked)

    def get_state(self):
        return {"nodes": self.nodes}


class FakeManager(FakeChatOnly):
    """A server manager that opens sessions, or says that it cannot."""

    def __init__(self, session):
        super().__init__()
        self.session = session

    @contextlib.asynccontextmanager
    async def managed_server(self, tokenizer=None):
        if self.session is None:
            raise NotImplementedError("no ids from this endpoint")
        yield self.session


class FakeTokenServer(FakeChatOnly):
    """An endpoint that takes and gives ids."""

    def __init__(self, answer: object):
        super().__init__()
        self.answer = answer
        self.config = SimpleNamespace(model_name="tiny")

    async def tokens_and_logprobs_completion(self, **asked):
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        assert isinstance(self.answer, tuple)
        return (list(asked["input_ids"]), *self.answer)


def node(**changed):
    plain = {"full_text": "user: hi\nhello", "tokens": [7, 8, 21, 22], "metadata": {"finish_reason": "stop"}}
    plain |= {"masked_tokens": [-100, -100, 21, 22], "logprobs": [1.0, 1.0, -0.25, -0.5]}
    return plain | changed


async def test_ids_go_in_and_come_out_where_the_server_can(prompt):
    server = FakeTokenServer(([[5, 6]], [[-0.25, -0.75]], [{"type": "length"}]))
    policy = ManagedPolicy(server)
    assert isinstance(policy, Policy)
    completion = await policy.complete(prompt, SAMPLING)
    assert (await policy.probe()).wire is Wire.IN_PROCESS
    assert server.asked[-1]["input_ids"] == prompt.ids.tolist()
    assert (server.asked[-1]["n"], server.asked[-1]["max_tokens"]) == (1, 20)
    assert ids_of(completion).tolist() == [5, 6]
    assert logprobs_of(completion).tolist() == [-0.25, -0.75]
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.model == "tiny"


async def test_a_server_that_changes_the_prompt_is_not_trusted_with_ids(prompt):
    answer = ([[5]], [[-0.5]], ["stop"])
    server = FakeTokenServer(answer)
    policy = ManagedPolicy(server)
    await policy.probe()

    async def without_first_id(**asked):
        return (list(asked["input_ids"])[1:], *answer)

    server.tokens_and_logprobs_completion = without_first_id
    with pytest.raises(MalformedReply, match="changed the prompt: 9 ids sent, 8 used"):
        await policy.complete(prompt, SAMPLING)


async def test_an_endpoint_without_ids_falls_back_to_its_text(prompt):
    policy = ManagedPolicy(FakeTokenServer(NotImplementedError("no ids")))
    completion = await policy.complete(prompt, SAMPLING)
    assert (await policy.probe()).wire is Wire.CHAT
    assert (completion.text, completion.provenance) == ("hello", Provenance.RETOKENIZED)


class FakeStatusError(Exception):
    """An HTTP status as client libraries raise it."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.status = status


@pytest.mark.parametrize("error", [FakeStatusError(404), KeyError("output_ids")])
async def test_an_error_about_the_shape_leads_to_the_text(error):
    assert (await ManagedPolicy(FakeTokenServer(error)).probe()).wire is Wire.CHAT


@pytest.mark.parametrize("error", [FakeStatusError(503), TimeoutError(), RuntimeError("CUDA out of memory")])
async def test_a_passing_error_never_costs_the_ids(error):
    server = FakeTokenServer(error)
    policy = ManagedPolicy(server)
    with pytest.raises(ProviderError, match=type(error).__name__):
        await policy.probe()
    server.answer = ([[5]], [[-0.5]], ["stop"])
    assert (await policy.probe()).wire is Wire.IN_PROCESS


async def test_arrays_are_as_good_as_lists(prompt):
    answer = (np.array([[5, 6]], np.uint32), [np.array([-0.25, -0.5], np.float32)], np.array(["stop"]))
    completion = await ManagedPolicy(FakeTokenServer(answer)).complete(prompt, SAMPLING)
    assert ids_of(completion).tolist() == [5, 6]
    assert logprobs_of(completion).tolist() == [-0.25, -0.5]
    listed = ([[np.int64(5), np.int32(6)]], [[np.float32(-0.25), -0.5]], ["stop"])
    completion = await ManagedPolicy(FakeTokenServer(listed)).complete(prompt, SAMPLING)
    assert ids_of(completion).tolist() == [5, 6]


@pytest.mark.parametrize(
    "garbled",
    [
        ([[5]], [None], ["stop"]),
        ([[5]], [[None]], ["stop"]),
        ([5], [-0.5], ["stop"]),
        ([[5]], [[-0.5]], []),
        ([[5]], [[-0.5]], None),
        ([[5]], [[-0.5]]),
        ([[[5], [6, 7]]], [[-0.5]], ["stop"]),
        (np.array([5]), np.array([-0.5]), np.array(["stop"])),
    ],
)
async def test_what_a_server_object_garbles_is_a_malformed_reply(prompt, garbled):
    server = FakeTokenServer(([[5]], [[-0.5]], ["stop"]))
    policy = ManagedPolicy(server)
    await policy.probe()
    server.answer = garbled
    with pytest.raises(MalformedReply):
        await policy.complete(prompt, SAMPLING)


@pytest.mark.parametrize("wrap", [lambda session: session, FakeManager])
async def test_a_managed_session_gives_the_ids_of_its_newest_node(prompt, wrap):
    completion = await ManagedPolicy(wrap(FakeSession(node()))).complete(prompt, SAMPLING)
    assert ids_of(completion).tolist() == [21, 22]
    assert prompt_ids_of(completion).tolist() == [7, 8]
    assert logprobs_of(completion).tolist() == [-0.25, -0.5]
    assert completion.provenance is Provenance.SAMPLED


async def test_only_the_last_turn_of_a_node_is_this_completion(prompt):
    grown = node(tokens=[7, 21, 8, 22], masked_tokens=[-100, 21, -100, 22], logprobs=[1.0, -0.1, 1.0, -0.5])
    completion = await ManagedPolicy(FakeSession(grown)).complete(prompt, SAMPLING)
    assert ids_of(completion).tolist() == [22]
    assert prompt_ids_of(completion).tolist() == [7, 21, 8]


async def test_padding_is_not_a_logprob(prompt):
    padded = node(logprobs=[1.0, 1.0, -0.25, 1.0])
    completion = await ManagedPolicy(FakeSession(padded)).complete(prompt, SAMPLING)
    assert str(logprobs_of(completion).tolist()) == "[-0.25, nan]"
    assert completion.notes == ("logprobs_padded",)


PLACEHOLDER = list(range(128))


@pytest.mark.parametrize(
    "changed",
    [
        {"metadata": {"dummy_tokens": True}},
        {
            "tokens": PLACEHOLDER,
            "masked_tokens": [-100] * 64 + PLACEHOLDER[64:],
            "logprobs": [1.0] * 64 + [-0.5] * 64,
        },
    ],
)
async def test_placeholder_tokens_are_refused(prompt, changed):
    with pytest.raises(ProviderError, match=r"placeholder tokens.*ATROPOS_BYPASS_MANAGED_SERVER"):
        await ManagedPolicy(FakeSession(node(**changed))).complete(prompt, SAMPLING)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"logprobs": [1.0, 1.0, -0.5]}, "3 logprobs for 4 tokens"),
        ({"masked_tokens": [-100, -100, 21, 23]}, "differs from node.tokens"),
        ({"logprobs": [1.0, 1.0, -0.5, 0.5]}, "0.5: not a logprob"),
        ({"tokens": None}, "node.tokens is None"),
    ],
)
async def test_a_node_that_does_not_fit_together_is_refused(prompt, changed, text):
    with pytest.raises(MalformedReply, match=text):
        await ManagedPolicy(FakeSession(node(**changed))).complete(prompt, SAMPLING)


async def test_a_manager_that_cannot_track_gives_its_text(prompt):
    completion = await ManagedPolicy(FakeManager(None)).complete(prompt, SAMPLING)
    assert (completion.text, completion.token_ids) == ("hello", None)


async def test_reasoning_stands_in_for_a_missing_content_and_says_so(prompt):
    completion = await ManagedPolicy(FakeChatOnly(content=None, reasoning="thought")).complete(
        prompt, SAMPLING
    )
    assert (completion.text, completion.notes) == ("thought", ("text_from_reasoning",))


async def test_empty_choices_and_foreign_errors_are_typed_and_have_words(prompt):
    with pytest.raises(MalformedReply, match="choices is empty"):
        await ManagedPolicy(FakeChatOnly(choices=0)).complete(prompt, SAMPLING)
    broken = FakeTokenServer(([[5]], [[-0.5]], ["stop"]))
    policy = ManagedPolicy(broken)
    await policy.probe()
    broken.answer = TimeoutError()
    with pytest.raises(ProviderError, match="tokens_and_logprobs_completion: TimeoutError"):
        await policy.complete(prompt, SAMPLING)


async def test_bypass_goes_to_the_servers_own_address(prompt):
    debug = DebugSettings(bypass_managed_server=True)
    async with FakeServer(lambda ask: "direct", wire=Wire.VLLM) as real:
        config = SimpleNamespace(base_url=f"{real.url}/v1", api_key="local", model_name="fake-model")
        server = FakeChatOnly()
        server.servers = [SimpleNamespace(config=config)]
        policy = ManagedPolicy(server, debug=debug)
        completion = await policy.complete(prompt, SAMPLING)
        await policy.aclose()
        assert real.asks[-1].path == "/v1/chat/completions"
    assert (completion.text, completion.provenance) == ("direct", Provenance.RETOKENIZED)


def test_bypass_without_an_address_says_what_is_missing():
    with pytest.raises(ConfigError, match="names no base_url"):
        ManagedPolicy(FakeChatOnly(), debug=DebugSettings(bypass_managed_server=True))


async def test_a_policy_is_not_mistaken_for_a_server_object():
    async with HttpPolicy("http://127.0.0.1:1") as policy:
        assert isinstance(policy, Policy)
    assert not isinstance(FakeChatOnly(), Policy)
