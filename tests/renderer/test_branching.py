"""In template mode a conversation falls into as many sequences as its template's certificate predicts."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.renderer import Renderer
from atropos_agent.renderer.probes import CORE_FOLLOWINGS, texts
from tests.conversations import ANSWERED, CONVERSATIONS, ROLLOUTS, SAID, check_prediction, check_rollout
from tests.family_tokenizers import family_tokenizer
from tests.rollouts import ANY_SPEED
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

UNPREDICTED = {"forgetting", "depends_on_text", "depends_on_turn", "one_turn"}
PREDICTED = sorted(TEMPLATES.keys() - UNPREDICTED)


@cache
def renderer_for(name: str) -> Renderer:
    return Renderer(tokenizer_for(name), marks=HERMES_MARKS)


def test_every_kind_is_spoken():
    assert SAID.keys() == texts(HERMES_MARKS).keys()
    assert ANSWERED.keys() == {*CORE_FOLLOWINGS}


@pytest.mark.parametrize("name", PREDICTED)
@settings(ANY_SPEED, max_examples=30)
@given(turns=CONVERSATIONS)
def test_a_conversation_has_as_many_sequences_as_predicted(name, turns):
    check_prediction(renderer_for(name), turns)


@pytest.mark.slow
@pytest.mark.parametrize("history", ["append", "template"])
@pytest.mark.parametrize("name", PREDICTED)
@settings(ANY_SPEED, max_examples=8)
@given(kinds=ROLLOUTS)
def test_a_rollout_has_as_many_sequences_as_predicted_and_each_turn_ends_once(name, history, kinds):
    check_rollout(renderer_for(name), tokenizer_for(name).eos_token_id, kinds, history=history)


@pytest.mark.parametrize("history", ["append", "template"])
@settings(ANY_SPEED, max_examples=8)
@given(kinds=ROLLOUTS)
def test_special_tokens_that_eat_white_space_end_each_turn_once(history, kinds):
    template = TEMPLATES["end_of_text"].replace("<|eot|>", "<|end|>")
    tokenizer, stops = family_tokenizer("phi3", template, ("<|user|>", "<|assistant|>"))
    renderer = Renderer(tokenizer, stop_ids=stops, marks=HERMES_MARKS)
    assert len(renderer.encode("<|end|>\n<|user|>\n")) == 2
    for stop_id in stops:
        check_rollout(renderer, stop_id, kinds, history=history)


def test_what_cannot_be_predicted_says_so():
    unknown = {name for name in TEMPLATES if not renderer_for(name).certificate.branching.predictable}
    assert unknown == UNPREDICTED
    assert renderer_for("forgetting").certificate.branching.sequences([("plain text", None)]) is None


@pytest.mark.parametrize(
    ("name", "sequences"),
    [
        ("chatml", 1),
        ("trimming", 2),
        ("strips_at_once", 3),
        ("strips_always", 2),
        ("qwen3", 2),
        ("qwen3_full", 1),
        ("empty_think", 3),
        ("open_think", 5),
    ],
)
def test_the_prediction_for_a_known_conversation(name, sequences):
    turns = [
        ("a tool call", "an observation"),
        ("reasoning and a tool call", "an observation"),
        ("trailing white space", "an observation"),
        ("reasoning and a tool call", "an observation"),
        ("plain text", None),
    ]
    assert renderer_for(name).certificate.branching.sequences(turns) == sequences


def test_reasoning_that_survives_observations_goes_at_once_at_the_next_question():
    turns = [("reasoning and a tool call", "an observation")] * 3
    predicted = renderer_for("qwen3_full").certificate.branching.sequences
    assert predicted([*turns, ("plain text", None)]) == 1
    assert predicted([*turns, ("closed reasoning", "a real user turn"), ("plain text", None)]) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chatml", "never"),
        ("open_think", "after every turn"),
        ("forgetting", "not predictable"),
        (
            "trimming",
            "after leading white space, trailing white space; before a real user turn, an "
            "observation, an unwrapped repair text",
        ),
    ],
)
def test_branching_in_words(name, words):
    assert str(renderer_for(name).certificate.branching) == words
