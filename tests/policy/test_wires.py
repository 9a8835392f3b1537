"""The pure part: what goes out, what is read, what is refused."""

import contextlib

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.errors import ContextOverflow, MalformedReply, ModelNotFound, ServerRefused
from atropos_agent.policy.failures import refusal
from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import Asked, ChatFormat, LlamaCppFormat, TextFormat, VllmFormat
from atropos_agent.trajectory import FinishReason, Provenance, SamplingParams
from tests.completions import ids_of, logprobs_of

URL = "http://host/v1/completions"


def native(ids: list[int], entries: list[int], **changed: object) -> dict[str, object]:
    probabilities = [{"id": i, "logprob": -(k + 1) / 4} for k, i in enumerate(entries)]
    answer = {"tokens": ids, "completion_probabilities": probabilities, "content": "x", "stop_type": "eos"}
    return answer | {"tokens_predicted": len(ids), "tokens_evaluated": 0, "model": "m"} | changed


def aligned(ids: list[int], entries: list[int]) -> list[float]:
    completion = LlamaCppFormat("m").read(native(ids, entries), Asked())
    assert ids_of(completion).tolist() == ids
    return [float(value) for value in logprobs_of(completion)]


def test_a_token_without_an_entry_keeps_its_id_and_has_no_logprob():
    assert str(aligned([1, 2, 3], [1, 3])) == "[-0.25, nan, -0.5]"
    assert str(aligned([1, 2, 3], [2, 3])) == "[nan, -0.25, -0.5]"
    assert str(aligned([1, 2, 3], [1, 2])) == "[-0.25, -0.5, nan]"
    assert str(aligned([1, 2], [])) == "[nan, nan]"


def test_where_an_entry_could_belong_to_either_of_two_equal_ids_neither_gets_it():
    assert str(aligned([5, 5, 6], [5, 6])) == "[nan, nan, -0.5]"
    assert str(aligned([4, 5, 5, 6], [4, 6])) == "[-0.25, nan, nan, -0.5]"


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_every_logprob_that_is_kept_is_the_one_of_its_id(tokens):
    ids = [token for token, _ in tokens]
    kept = [index for index, (_, has_entry) in enumerate(tokens) if has_entry]
    values = {index: -(k + 1) / 4 for k, index in enumerate(kept)}
    found = aligned(ids, [ids[index] for index in kept])
    assert len(found) == len(ids)
    for index, value in enumerate(found):
        assert np.isnan(value) or value == values.get(index)
    if len(kept) == len(ids):
        assert not np.isnan(found).any()


@pytest.mark.parametrize(
    ("ids", "entries"), [([1, 2], [2, 1]), ([1], [1, 1]), ([1, 2, 3], [1, 4]), ([], [1])]
)
def test_entries_that_were_not_sampled_are_refused(ids, entries):
    with pytest.raises(MalformedReply):
        aligned(ids, entries)


def test_an_empty_completion_is_one():
    completion = LlamaCppFormat("m").read(native([], []), Asked())
    assert len(ids_of(completion)) == 0


@pytest.mark.parametrize("ids", [[1.5], ["1"], [None], [[1]], [2**31], [-1], [True, "a"], [1, None]])
def test_what_is_no_id_is_refused(ids):
    with pytest.raises(MalformedReply, match="tokens"):
        LlamaCppFormat("m").read(native(ids, []), Asked())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    st.sampled_from(["tokens", "completion_probabilities", "logprob", "content", "stop_type"]),
)
def test_arbitrary_json_in_any_place_is_read_or_refused_in_type(value, place):
    with contextlib.suppress(MalformedReply):
        answer = native([1], [1]) | {place: value}
        if place == "logprob":
            answer["completion_probabilities"] = [{"id": 1, "logprob": value}]
        LlamaCppFormat("m").read(answer, Asked())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    st.sampled_from(["choices", "usage", "token_ids", "logprobs", "message", "text", "finish_reason"]),
    st.sampled_from([Wire.VLLM, Wire.CHAT_IDS, Wire.CHAT_LOGPROBS, Wire.CHAT, Wire.TEXT]),
)
def test_arbitrary_openai_json_is_read_or_refused_in_type(value, place, wire):
    entry = {"token": "a", "bytes": [97], "logprob": -1.0}
    choice = {"text": "a", "message": {"content": "a"}, "finish_reason": "stop", "token_ids": [97]}
    choice["logprobs"] = {"content": [entry], "token_logprobs": [-1.0]}
    answer = {"choices": [choice], "usage": {"completion_tokens": 1}, "prompt_token_ids": []}
    (answer if place in answer else choice)[place] = value
    if wire is Wire.VLLM:
        reader = VllmFormat("m")
    else:
        reader = TextFormat("m") if wire is Wire.TEXT else ChatFormat("m", wire)
    with contextlib.suppress(MalformedReply):
        reader.read(answer, Asked())


def test_the_ids_are_spliced_in_as_they_are_encoded():
    prompt = Prompt()
    prompt.extend(np.arange(5, dtype=np.int32))
    prompt.extend(np.array([70000], np.int32))
    for wire_format in (LlamaCppFormat("m"), VllmFormat("m")):
        assert orjson.loads(wire_format.body(prompt, SamplingParams()))["prompt"] == [0, 1, 2, 3, 4, 70000]


def test_no_bound_on_tokens_is_said_in_each_servers_words():
    prompt, unbounded = Prompt(), SamplingParams()
    assert orjson.loads(LlamaCppFormat("m").body(prompt, unbounded))["n_predict"] == -1
    assert orjson.loads(VllmFormat("m").body(prompt, unbounded))["max_tokens"] is None
    assert "max_tokens" not in orjson.loads(ChatFormat("m").body(prompt, unbounded))


def test_a_seed_beyond_32_bits_is_folded_for_llama_cpp():
    body = LlamaCppFormat("m").body(Prompt(), SamplingParams(seed=2**40 + 5))
    assert 0 <= orjson.loads(body)["seed"] < 2**32 - 1


def test_a_plain_openai_server_gets_plain_openai_parameters():
    asked = orjson.loads(ChatFormat("m", extended=False).body(Prompt(), SamplingParams(max_tokens=5)))
    assert asked.keys() <= {
        *("model", "messages", "n", "stream", "temperature", "top_p", "max_tokens"),
        *("presence_penalty", "frequency_penalty", "seed"),
    }


def test_text_from_reasoning_is_used_and_noted():
    message = {"content": None, "reasoning": "thought"}
    answer = {"choices": [{"message": message, "finish_reason": "length"}]}
    completion = ChatFormat("m").read(answer, Asked())
    assert (completion.text, completion.notes) == ("thought", ("text_from_reasoning",))
    assert completion.finish_reason is FinishReason.LENGTH


def test_llama_cpp_chat_entries_become_ids():
    entries = [{"id": 5, "token": "a", "bytes": [97], "logprob": -0.5}]
    entries.append({"id": 2, "token": "", "bytes": [], "logprob": -0.25})
    choice = {"message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": entries}}
    completion = ChatFormat("m", Wire.CHAT_LOGPROBS).read({"choices": [choice]}, Asked())
    assert ids_of(completion).tolist() == [5, 2]
    assert completion.provenance is Provenance.FROM_LOGPROBS


def test_entries_that_do_not_spell_the_text_are_not_used():
    entries = [{"token": "b", "bytes": [98], "logprob": -0.5}]
    choice = {"message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": entries}}
    completion = ChatFormat("m", Wire.CHAT_LOGPROBS).read({"choices": [choice]}, Asked())
    assert completion.token_bytes is None
    assert completion.notes == ("token_entries_incomplete",)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":{"message":"x","type":"exceed_context_size_error"}}', ContextOverflow),
        (400, b'{"error":{"message":"x","code":"context_length_exceeded"}}', ContextOverflow),
        (
            400,
            b'{"object":"error","message":"maximum context length is 8 tokens","code":400}',
            ContextOverflow,
        ),
        (404, b'{"error":{"message":"The model `m` does not exist.","param":"model"}}', ModelNotFound),
        (404, b'{"error":{"message":"x","code":"model_not_found"}}', ModelNotFound),
        (404, b'{"error":{"message":"File Not Found","type":"not_found_error"}}', ServerRefused),
        (404, b'{"detail":"Not Found"}', ServerRefused),
        (400, b'{"error":"plain text"}', ServerRefused),
        (500, b"<html>oops</html>", ServerRefused),
        (503, b"", ServerRefused),
        (400, b"[1]", ServerRefused),
    ],
)
def test_a_refusal_has_its_type_and_names_everything(status, body, kind):
    error = refusal(URL, status, body, attempts=2, model="m")
    assert type(error) is kind
    assert f"{URL} answered {status} (attempt 2): " in str(error)


def test_a_long_body_is_shown_in_part():
    assert len(str(refusal(URL, 500, b"x" * 10**6, attempts=1, model="m"))) < 600
