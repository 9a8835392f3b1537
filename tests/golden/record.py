"""Writes what the present code makes of every scenario: `python -m tests.golden.record`.

To be run before a change that must not change any rollout, never to make a red golden test green.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from tests.golden.adapter import play
from tests.golden.scenarios import SCENARIOS
from tests.tokenizers_for_tests import backend_without_added_tokens

RECORDED = Path(__file__).with_name("recorded.json.gz")


def tokenizer_fingerprint() -> str:
    """Of the vocabulary behind every id here: with another one nothing can be compared."""
    return hashlib.sha256(backend_without_added_tokens().encode()).hexdigest()


def recorded_text() -> str:
    """The file as text: plain JSON, packed."""
    return gzip.decompress(RECORDED.read_bytes()).decode()


def recorded() -> dict[str, Any]:
    """What the file holds: `tokenizer`, and `rollouts` by the name of their scenario."""
    found: dict[str, Any] = json.loads(recorded_text())
    return found


def as_text(tokenizer: str, rollouts: dict[str, Any]) -> str:
    """JSON with one rollout's field a line, so that a difference shows where it is."""
    blocks: list[str] = []
    for name, rollout in rollouts.items():
        fields = [f"   {json.dumps(key)}: {_packed(value)}" for key, value in rollout.items()]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(fields) + "\n  }")
    return f'{{\n "tokenizer": {json.dumps(tokenizer)},\n "rollouts": {{\n' + ",\n".join(blocks) + "\n }\n}\n"


def _packed(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def _record() -> None:
    rollouts = {name: await play(scenario) for name, scenario in SCENARIOS.items()}
    text = as_text(tokenizer_fingerprint(), rollouts)
    RECORDED.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    asyncio.run(_record())
