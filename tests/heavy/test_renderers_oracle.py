"""TRL's chat templates: the ids after a turn are those of the hand-written renderers of `renderers`.

Their thinking retention is `all`. Whatever differs is listed with its reason, and only that.
"""

from __future__ import annotations

from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.renderers_oracle import Pair

TRL = find_spec("trl")
if TRL is None or TRL.origin is None:
    pytest.skip("trl is not installed: pip install --no-deps trl", allow_module_level=True)
renderers = pytest.importorskip("renderers")

COMPARED = {
    "deepseek_r1_distill": ("DeepSeekR1", {}),
    "deepseekv3": ("DeepSeekR1", {}),
    "gemma4_v5": ("Gemma4", {}),
    "glm4moe": ("GLM45", {}),
    "llama3_2": ("Llama3", {"date_string": "26 Jul 2024"}),
    "nemotron_3_5_lightning": ("Nemotron35", {}),
    "nemotron_3_nano": ("Nemotron3", {}),
    "nemotron_3_super": ("Nemotron3", {}),
    "nemotron_3_ultra": ("Nemotron3Ultra", {}),
    "qwen3": ("Qwen3", {}),
    "qwen3_5_nothink": ("Qwen35", {"enable_thinking": False}),
    "qwen3_5_think": ("Qwen35", {"enable_thinking": True}),
    "qwen3_6": ("Qwen36", {}),
    "qwen3_8": ("Qwen38", {}),
    "qwen3_instruct_2507": ("Qwen3", {}),
    "qwen3_vl": ("Qwen3VL", {}),
}
NOT_COMPARED = {
    "Default": "has no bridge of its own",
    "GptOss": "loads its vocabulary from the network",
}
NO_TEMPLATE = {
    "DeepSeekV3",
    "DeepSeekV4",
    "GLM5",
    "GLM51",
    "GLM53",
    "Hy3",
    "Inkling",
    "KimiK2",
    "KimiK25",
    "LagunaM1",
    "LagunaS21",
    "LagunaXS2",
    "LagunaXS21",
    "MiniMaxM2",
    "PrimeQwen3",
}
"""TRL ships no chat template of these."""
NO_REASONING = "they know no <think> in this family; we close one that was cut, as everywhere"
UNTHOUGHT = "they take a GLM text without <think> for one that is still reasoning"
CUT = "they end a turn that was cut with <|endoftext|>; the template ends it with the next header alone"
DIFFERENCES = [
    ("gemma4_v5", "reasoning, cut, then *: other ids", NO_REASONING),
    ("glm4moe", "plain text, stopped by *: they do not bridge", UNTHOUGHT),
    ("glm4moe", "other scripts, stopped by *: they do not bridge", UNTHOUGHT),
    ("glm4moe", "*, cut, then *: other ids", CUT),
    ("llama3_2", "reasoning, cut, then *: other ids", NO_REASONING),
]


def test_every_renderer_of_theirs_is_compared_or_said_not_to_be():
    theirs = {name.removesuffix("Renderer") for name in dir(renderers) if name.endswith("Renderer")}
    theirs -= {"", "Multimodal"}
    assert theirs == {name for name, _ in COMPARED.values()} | NOT_COMPARED.keys() | NO_TEMPLATE


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_only_what_is_listed_differs(name):
    theirs, settings = COMPARED[name]
    template = (Path(TRL.origin).parent / "chat_templates" / f"{name}.jinja").read_text()
    differing = list(Pair(name, template, theirs, settings).differences())
    listed = [pattern for template, pattern, _ in DIFFERENCES if template == name]
    assert [case for case in differing if not any(fnmatch(case, pattern) for pattern in listed)] == []
    assert [pattern for pattern in listed if not any(fnmatch(case, pattern) for case in differing)] == []
