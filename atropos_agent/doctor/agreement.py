"""Do the server and the local tokenizer make the same ids of the same texts?"""

from __future__ import annotations

import numpy as np

from atropos_agent.doctor.findings import Check, Grade
from atropos_agent.policy import HttpPolicy
from atropos_agent.renderer import Renderer

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "naïve café 漢字 строка 🙂 \u200b\ufb01",
    "   three spaces\n\n\n\ttabs\t\tand\r\nbreaks   ",
    "0 1 12 123 1234 12345678 3.14159 1e-9 0x7f",
    "def f(x):\n    return [y**2 for y in x if y != 0]  # comment\n",
    '<tool_call>\n{"name": "terminal", "arguments": {"command": "ls -la | wc -l"}}\n</tool_call>',
    "<think>\nI weigh both options.\n</think>\n\n<tool_response>{}</tool_response>",
)
SHOWN_IDS = 12
ACT = "give the tokenizer of the served model with --tokenizer FOLDER_OR_NAME"


async def check_tokenizer(policy: HttpPolicy, renderer: Renderer, source: str) -> Check:
    """Compare ids on probe texts and on every control token of `renderer`. Raises ProviderError."""
    texts = (*TEXTS, " ".join(renderer.control_tokens[:32]))
    for text in texts:
        theirs = await policy.tokenize(text)
        if theirs is None:
            finding = "the server does not tokenise for others; its ids are checked in each completion"
            return Check("tokenizer", Grade.UNKNOWN, f"{source}: {finding}")
        ours = renderer.encode(text)
        if not np.array_equal(ours, theirs):
            at = _first_difference(ours.tolist(), theirs.tolist())
            mine, other = [ids[at : at + SHOWN_IDS].tolist() for ids in (ours, theirs)]
            finding = f"{source} differs from the server's on {text[:40]!r}, from token {at}: {mine}, {other}"
            return Check("tokenizer", Grade.BAD, finding, ACT)
    return Check("tokenizer", Grade.GOOD, f"{source}: the server's ids on {len(texts)} probe texts")


def _first_difference(ours: list[int], theirs: list[int]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return next((at for at, (mine, other) in enumerate(pairs) if mine != other), min(len(ours), len(theirs)))
