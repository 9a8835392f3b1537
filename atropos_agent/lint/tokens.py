"""Checks of one trajectory's ids and masks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from atropos_agent.lint.findings import Finding
from atropos_agent.lint.rows import Row
from atropos_agent.lint.vocabulary import Vocabulary
from atropos_agent.trajectory import Mask, TokenIds

LARGEST_ID = 2**31 - 1


def is_placeholder(row: Row) -> bool:
    """True for the ids 0, 1, 2, ... that a server without tokens makes up."""
    return len(row.ids) > 1 and bool((row.ids == np.arange(len(row.ids))).all())


def check_ids(row: Row, known: Vocabulary) -> Iterator[Finding]:
    """Ids that are outside every vocabulary, or outside the known one."""
    if is_placeholder(row):
        text = (
            f"the tokens are 0 to {len(row.ids) - 1}: placeholders of a server that gave none, not a rollout"
        )
        yield Finding("placeholder-tokens", text, row.index, 0)
        return
    if (at := first(row.ids < 0)) is not None:
        yield Finding("id-negative", f"token id {row.ids[at]}: no embedding has it", row.index, at)
    size = LARGEST_ID + 1 if known.renderer is None else known.renderer.vocabulary_size
    if (at := first(row.ids >= size)) is not None:
        text = f"token id {row.ids[at]}, the vocabulary ends at {size - 1}: another tokenizer, or a broken id"
        yield Finding("id-outside-vocabulary", text, row.index, at)


def check_mask(row: Row) -> Iterator[Finding]:
    """A mask that trains nothing or everything."""
    if not row.trained.any() and not row.truncated:
        yield Finding("nothing-trained", "no token is trained and no reason is given", row.index)
    if row.trained.all():
        text = "every token is trained, the prompt included: the policy learns to write its own questions"
        yield Finding("everything-trained", text, row.index, 0)


def drift(row: Row, known: Vocabulary, text: str) -> int | None:
    """Where encoding `text`, the decoded ids, first gives other ids; None where it gives the same."""
    if known.renderer is None:
        return None
    ids: TokenIds = row.ids.astype(np.int32)
    again = known.renderer.encode(text)
    if np.array_equal(again, ids):
        return None
    common = min(len(ids), len(again))
    return first(ids[:common] != again[:common]) or common


def first(flags: Mask) -> int | None:
    """The position of the first True."""
    at = int(flags.argmax()) if len(flags) else 0
    return at if len(flags) and flags[at] else None
