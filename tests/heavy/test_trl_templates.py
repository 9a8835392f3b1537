"""The chat templates that TRL ships: each certified, predicted, and followed through whole rollouts."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings

from atropos_agent.renderer import Renderer
from tests.conversations import CONVERSATIONS, ROLLOUTS, check_prediction, check_rollout
from tests.family_tokenizers import family_tokenizer
from tests.rollouts import ANY_SPEED

TRL = find_spec("trl")
if TRL is None or TRL.origin is None:
    raise ModuleNotFoundError("trl is not installed: pip install --no-deps trl")
TEMPLATES = {path.stem: path for path in (Path(TRL.origin).parent / "chat_templates").glob("*.jinja")}


@cache
def certified(name: str) -> tuple[Renderer, list[int]]:
    tokenizer, stops = family_tokenizer(name, TEMPLATES[name].read_text())
    return Renderer(tokenizer, stop_ids=stops), stops


def test_trl_ships_templates():
    assert len(TEMPLATES) > 40


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_template_is_certified_for_append(name):
    certificate = certified(name)[0].certificate
    assert certificate.bridge, certificate.reasons
    assert certificate.history_stable or certificate.reasons
    assert certificate.branching.predictable


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(ANY_SPEED, max_examples=6)
@given(turns=CONVERSATIONS)
def test_a_conversation_has_as_many_sequences_as_predicted(name, turns):
    check_prediction(certified(name)[0], turns)


@pytest.mark.parametrize("history", ["append", "template"])
@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(ANY_SPEED, max_examples=2)
@given(kinds=ROLLOUTS)
def test_a_rollout_loses_no_turn_and_each_ends_once(name, history, kinds):
    renderer, stops = certified(name)
    for stop_id in stops:
        check_rollout(renderer, stop_id, kinds, history=history)
