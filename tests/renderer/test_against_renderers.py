"""Our own Qwen3-like template gives the ids of the Qwen3 renderer that others wrote by hand."""

from __future__ import annotations

from tests.renderers_oracle import Pair
from tests.tokenizers_for_tests import TEMPLATES


def test_nothing_differs_from_the_hand_written_renderer():
    assert list(Pair("qwen3_full", TEMPLATES["qwen3_full"], "Qwen3", {}).differences()) == []


def test_a_template_that_ends_its_turns_otherwise_differs_everywhere():
    other = TEMPLATES["qwen3_full"].replace("<|im_end|>\\n", "<|im_end|>")
    differing = list(Pair("qwen3_full", other, "Qwen3", {}).differences())
    assert len(differing) == 2 + 4 * (5 * 3 + 1)  # openings; followings x (texts x ends, and cut reasoning)
    assert "plain text, stopped by <|im_end|>, then an observation: other ids" in differing
