"""What `doctor` finds of a server: the right verdict and the next act, for each way of being unfit."""

import socket

import pytest

from atropos_agent.config import PolicyConfig
from atropos_agent.doctor import Check, Grade, Verdict, examine_server, judge
from atropos_agent.policy import HttpPolicy, Wire
from atropos_agent.testing import FakeServer, Fault, TokenizerCodec
from atropos_agent.trajectory import LogprobMode
from tests.tokenizers_for_tests import tokenizer_for

END = "<|im_end|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer_for("chatml").save_pretrained(made)
    return made


async def examined(url: str, tokenizer) -> list[Check]:
    config = PolicyConfig(base_url=url, tokenizer=str(tokenizer))
    async with HttpPolicy(url, max_attempts=1, request_timeout_s=2.0) as policy:
        return [check async for check in examine_server(config, policy)]


async def examined_fake(folder, script=lambda ask: "hello", *, tokenizer=None, **options) -> list[Check]:
    codec = TokenizerCodec(folder)
    async with FakeServer(script, codec, stop_id=codec.token_id(END), **options) as server:
        return await examined(server.url, tokenizer or folder)


def verdict(checks: list[Check]) -> Verdict:
    return judge(checks, "all well", "collect")


def of(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


@pytest.mark.parametrize("wire", [Wire.LLAMA_CPP, Wire.SGLANG, Wire.VLLM, Wire.VLLM_GENERATE])
async def test_a_server_that_takes_and_gives_ids_is_ready(folder, wire):
    checks = await examined_fake(folder, wire=wire, logprob_mode=LogprobMode.PROCESSED)
    assert {check.grade for check in checks} == {Grade.GOOD}, checks
    assert verdict(checks) == Verdict(Grade.GOOD, "ready: all well", "collect")
    assert of(checks, "tokenizer").text.endswith("the server's ids on 8 probe texts")
    assert of(checks, "logprobs").text.startswith("processed")


async def test_raw_logprobs_are_said_to_be_good_at_temperature_1_alone(folder):
    checks = await examined_fake(folder, wire=Wire.VLLM, logprob_mode=LogprobMode.RAW)
    assert "exported at temperature 1 without truncation" in of(checks, "logprobs").text


@pytest.mark.parametrize(
    ("wire", "lost"),
    [
        (Wire.CHAT_IDS, "renders the prompts itself"),
        (Wire.CHAT_LOGPROBS, "rebuilt from per-token entries"),
        (Wire.TEXT, "text only"),
        (Wire.CHAT, "text only"),
    ],
)
async def test_a_lower_tier_is_usable_with_loss_and_says_what_would_be_better(folder, wire, lost):
    found = verdict(await examined_fake(folder, wire=wire))
    assert found.grade is Grade.LOSS
    assert lost in found.text
    assert found.act.startswith("serve with vLLM, SGLang or llama.cpp")


async def test_another_tokenizer_is_not_usable_and_the_first_difference_is_shown(folder, tmp_path):
    tokenizer = tokenizer_for("chatml")
    tokenizer.add_tokens(["quick brown"])
    tokenizer.save_pretrained(tmp_path)
    checks = await examined_fake(folder, wire=Wire.VLLM, tokenizer=tmp_path)
    found = verdict(checks)
    assert found.grade is Grade.BAD
    assert "differs from the server's on 'The quick brown fox" in found.text
    assert found.act == "give the tokenizer of the served model with --tokenizer FOLDER_OR_NAME"
    assert of(checks, "latency at 16").grade is Grade.GOOD  # one failed check hides no other


async def test_a_tokenizer_that_cannot_be_had_is_named(folder):
    found = verdict(await examined_fake(folder, wire=Wire.VLLM, tokenizer="./absent"))
    assert (found.grade, found.act) == (
        Grade.BAD,
        "give the model's own with --tokenizer FOLDER_OR_NAME",
    )


async def test_a_dead_port_is_named_with_its_cause():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    found = verdict(await examined(f"http://127.0.0.1:{port}", "./absent"))
    assert found.grade is Grade.BAD
    assert "Connection refused" in found.text
    assert found.act.startswith("start the server")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "cause", "act"),
    [
        (Fault.STALL, "stalls: no answer from", "look at the server's log"),
        (Fault.STALL_MID_BODY, "stalls: no answer from", "look at the server's log"),
        (Fault.HTML, "did not answer JSON", "look at the server's own log"),
        (Fault.UNAUTHORIZED, "401", "set ATROPOS_SERVER_API_KEY"),
        (Fault.INTERNAL_ERROR, "engine died", "look at the server's own log"),
    ],
)
@pytest.mark.parametrize("answered", [0, 3])
async def test_a_server_that_answers_nothing_usable_is_named_with_its_cause(
    folder, fault, cause, act, answered
):
    """From the first request on, or once what it can do was found out."""
    script = lambda ask: "ok" if ask.turn <= answered else fault  # noqa: E731
    found = verdict(await examined_fake(folder, script, wire=Wire.VLLM))
    if (fault, answered) == (Fault.HTML, 3):
        act = "give the address of an inference server"
    assert found.grade is Grade.BAD
    assert cause in found.text
    assert found.act.startswith(act)


async def test_a_server_that_does_not_tokenise_is_ready_and_what_was_not_checked_is_said(folder, monkeypatch):
    async def none(*_):
        return None

    monkeypatch.setattr(HttpPolicy, "tokenize", none)
    found = verdict(await examined_fake(folder, wire=Wire.VLLM, logprob_mode=LogprobMode.PROCESSED))
    assert found == Verdict(Grade.GOOD, "ready: all well; could not be checked: tokenizer", "collect")


async def test_the_token_rate_is_of_tokens_that_came(folder):
    checks = await examined_fake(folder, lambda ask: "hi", wire=Wire.VLLM)
    assert "for at most 8 tokens, " in of(checks, "latency at 1").text


@pytest.mark.slow
async def test_a_completion_that_stalls_hides_no_other_check(folder):
    """The probe is answered; whatever comes later is not."""
    checks = await examined_fake(folder, lambda ask: "ok" if ask.turn <= 3 else Fault.STALL, wire=Wire.VLLM)
    assert of(checks, "tokenizer").grade is Grade.GOOD
    assert of(checks, "completion").text.startswith("it stalls")
    assert verdict(checks).act == "look at the server's log; it may be loading"


async def test_a_template_without_a_bridge_is_followed_instead(folder, tmp_path):
    tokenizer_for("depends_on_text").save_pretrained(tmp_path)
    found = verdict(await examined_fake(tmp_path, wire=Wire.VLLM))
    assert found.grade is Grade.LOSS
    assert "append mode is refused" in found.text
    assert "--agent.history=template" in found.act
