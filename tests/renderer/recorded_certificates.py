"""Certificates of the zoo as JSON: `python -m tests.renderer.recorded_certificates` writes the present ones.

To be run before a change that must not change any certificate, never to make a red test green.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.renderer import Certificate, Renderer
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

RECORDED = Path(__file__).with_name("certificates.json.gz")


def recorded() -> dict[str, dict[str, Any]]:
    """What the file holds, by the name of the template."""
    found: dict[str, dict[str, Any]] = json.loads(gzip.decompress(RECORDED.read_bytes()))
    return found


def as_json(value: Any) -> Any:
    """Dataclasses as objects, sets as sorted lists."""
    if isinstance(value, frozenset):
        return sorted(map(as_json, value), key=str)
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    return value


def certificate_of(name: str) -> Certificate:
    return Renderer(tokenizer_for(name), marks=HERMES_MARKS).certificate


if __name__ == "__main__":
    present = {name: as_json(certificate_of(name)) for name in sorted(TEMPLATES)}
    for certificate in present.values():
        del certificate["key"]
    text = json.dumps(present, ensure_ascii=False, sort_keys=True)
    RECORDED.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
