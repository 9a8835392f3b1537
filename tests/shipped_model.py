"""The model that the tests of real servers use: the one this package ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from atropos_agent.policy.embedded import EMBEDDED_MODEL


def model_folder() -> Path:
    """The folder of weights and tokenizer; skips where the package was installed without them."""
    if not (EMBEDDED_MODEL / "model.gguf").exists():
        pytest.skip(f"no model in {EMBEDDED_MODEL}")
    pytest.importorskip("xllamacpp")
    return EMBEDDED_MODEL
