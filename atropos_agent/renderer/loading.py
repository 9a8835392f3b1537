"""A tokenizer and its end tokens from a folder or a hub name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from atropos_agent.errors import RenderError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(source: str | Path) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """The tokenizer with its chat template, and the end tokens of the generation config.

    Raises RenderError if they cannot be loaded, e.g. offline.
    """
    from transformers import AutoTokenizer

    # transformers would take a missing folder for a hub name and give a misleading error.
    if (isinstance(source, Path) or source.startswith(("/", "."))) and not Path(source).is_dir():
        raise RenderError(f"no folder {str(source)!r} to load a tokenizer from")
    try:
        return AutoTokenizer.from_pretrained(str(source)), _generation_stops(str(source))
    except Exception as error:  # for a malformed file the tokenizers library raises a bare Exception
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RenderError(
            f"no tokenizer from {str(source)!r}: {first}; give a folder with tokenizer.json or a hub name"
        ) from error


def _generation_stops(source: str) -> list[int]:
    from transformers.utils.hub import cached_file

    path = cached_file(source, "generation_config.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        return []
    ends = json.loads(Path(path).read_bytes()).get("eos_token_id")
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
