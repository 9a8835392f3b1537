"""The columns of a group as trajectories that can be checked; anything else in them is a finding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from atropos_agent.lint.findings import Finding
from atropos_agent.lint.reading import Object
from atropos_agent.trajectory import IGNORED_TOKEN, Mask

Ids: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]

COLUMNS = (
    "masks",
    "scores",
    "inference_logprobs",
    "logprobs",
    "ref_logprobs",
    "advantages",
    "messages",
    "overrides",
)
PER_TOKEN = ("masks", "inference_logprobs", "logprobs", "ref_logprobs", "advantages")
TRUNCATED_WORDS = frozenset({"length", "truncated", "max_tokens", "context_length"})


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One trajectory: `ids` int64[T], `trained` bool[T], `logprobs` float64[T] (NaN at `nulls`) or None.

    `finish_reasons` (one a step, where known) and `truncated` are what its writer recorded of its turns.
    """

    index: int
    ids: Ids
    trained: Mask
    logprobs: Floats | None
    nulls: tuple[int, ...] = ()
    messages: Sequence[Any] | None = None
    finish_reasons: tuple[str, ...] = ()
    truncated: bool = False
    sequences: int = 1
    mask_findings: tuple[Finding, ...] = ()

    @property
    def runs(self) -> list[tuple[int, int]]:
        """[start, end) of every run of trained tokens."""
        edges = np.flatnonzero(np.diff(self.trained.astype(np.int8), prepend=0, append=0))
        runs: list[tuple[int, int]] = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
        return runs


def as_group(value: Object) -> Object | None:
    """`value` as a group; a line of one trajectory becomes a group of one. None where it has no tokens."""
    tokens = value.get("tokens")
    if not isinstance(tokens, list):
        return None
    if tokens and isinstance(tokens[0], list):
        return value
    given = {"tokens": tokens, **{name: value[name] for name in COLUMNS if value.get(name) is not None}}
    return {**value, **{name: [column] for name, column in given.items()}}


def check_columns(group: Object) -> Iterator[Finding]:
    """Columns that do not have one entry a row. Atropos writes some absent columns as empty lists."""
    rows = len(group["tokens"])
    for name in COLUMNS:
        column = group.get(name)
        if column is None and name not in ("masks", "scores"):
            continue
        if not isinstance(column, list):
            yield Finding("columns-differ", f"no list `{name}` beside {rows} rows of tokens")
        elif len(column) != rows and (column or name in ("masks", "scores")):
            text = f"`{name}` has {len(column)} entries for {rows} rows of tokens: rows get another's values"
            yield Finding("columns-differ", text)


def check_rows(group: Object) -> Iterator[Finding]:
    """Entries of a row that are not aligned with its tokens."""
    for index, ids in enumerate(group["tokens"]):
        if not isinstance(ids, list):
            yield Finding("values-malformed", "`tokens` of this row is not a list", index)
            continue
        for name in PER_TOKEN:
            values = _entry(group, name, index)
            if isinstance(values, list) and len(values) != len(ids):
                if name == "advantages" and not values:
                    continue
                text = f"`{name}` has {len(values)} entries for {len(ids)} tokens: the loss is misaligned"
                yield Finding("rows-differ", text, index, min(len(values), len(ids)))


def check_numbers(group: Object) -> Iterator[Finding]:
    """Scores and advantages that are not finite numbers."""
    for index, score in enumerate(_list(group.get("scores"))):
        if not _is_finite(score):
            yield Finding(
                "score-not-finite", f"score {score!r}: the baseline of the whole group is lost", index
            )
    for index, values in enumerate(_list(group.get("advantages"))):
        listed = values if isinstance(values, list) else [values]
        bad = next((at for at, value in enumerate(listed) if not _is_finite(value)), None)
        if bad is not None:
            token = bad if isinstance(values, list) else None
            yield Finding(
                "advantage-not-finite", f"advantage {listed[bad]!r}: the loss is not finite", index, token
            )


def check_logprobs_given(group: Object) -> Iterator[Finding]:
    """A group, or a row of one, without logprobs."""
    text = "no logprobs: a trainer cannot tell how far the policy has moved since"
    columns = [group[name] for name in ("inference_logprobs", "logprobs") if group.get(name)]
    if not columns:
        yield Finding("logprobs-absent", text)
        return
    for index, values in enumerate(_list(columns[0])):
        if values is None:
            yield Finding("logprobs-absent", text, index)


def rows(group: Object) -> Iterator[Row | Finding]:
    """Every row that is aligned and holds numbers, as a Row; a Finding for every other value."""
    for index, tokens in enumerate(group["tokens"]):
        if not isinstance(tokens, list):
            continue
        if not tokens:
            yield Finding("empty-trajectory", "no tokens: nothing to train on", index)
            continue
        if (at := _first_not_integer(tokens)) is not None:
            yield Finding("values-malformed", f"token {tokens[at]!r} is not an integer", index, at)
            continue
        ids = np.array(tokens, np.int64)
        masks = _entry(group, "masks", index)
        if not isinstance(masks, list) or len(masks) != len(ids):
            continue
        if (at := _first_not_integer(masks, booleans=True)) is not None:
            yield Finding("values-malformed", f"mask {masks[at]!r} is not an integer", index, at)
            continue
        row = _row(group, index, ids, masks)
        yield from row.mask_findings
        yield row


def _row(group: Object, index: int, ids: Ids, masks: list[Any]) -> Row:
    trained, found = _trained(index, ids, masks)
    logprobs, nulls = _logprobs(group, index, len(ids))
    if logprobs is _UNUSABLE:
        found.append(Finding("values-malformed", "a logprob is neither a number nor null", index))
        logprobs = None
    told = _told(group, index)
    return Row(
        index=index,
        ids=ids,
        trained=trained,
        logprobs=logprobs,
        nulls=nulls,
        messages=_entry(group, "messages", index),
        finish_reasons=told[0],
        truncated=told[1],
        sequences=told[2],
        mask_findings=tuple(found),
    )


def _trained(index: int, ids: Ids, masks: list[Any]) -> tuple[Mask, list[Finding]]:
    """Where the row is trained, for every known convention of masks, and the defects of the mask."""
    held = np.array(masks, np.int64)
    found: list[Finding] = []
    trained: Mask = held != IGNORED_TOKEN
    foreign = trained & (held != ids)
    if foreign.any():
        if ((held == 0) | (held == 1)).all():
            trained = held == 1
            text = (
                f"a mask of 0 and 1 where Atropos has {IGNORED_TOKEN} and the id: 0 and 1 are trained as ids"
            )
            found.append(Finding("mask-binary", text, index, int(foreign.argmax())))
        else:
            at = int(foreign.argmax())
            text = f"mask {held[at]} is neither {IGNORED_TOKEN} nor token {ids[at]}: another token is trained"
            found.append(Finding("mask-foreign", text, index, at))
            trained = trained & ~foreign
    if trained[0] and not trained[-1]:  # every trajectory begins with a prompt, which no policy has sampled
        text = "the prompt is trained and the end is not: the mask is the wrong way round"
        found.append(Finding("mask-inverted", text, index, 0))
        trained = ~trained
    return trained, found


_UNUSABLE: Floats = np.empty(0)
_NUMBERS = {int, float, type(None)}


def _logprobs(group: Object, index: int, length: int) -> tuple[Floats | None, tuple[int, ...]]:
    """The row's logprobs and where they are null; None without any, `_UNUSABLE` if one is not a number."""
    values = _entry(group, "inference_logprobs" if group.get("inference_logprobs") else "logprobs", index)
    if not isinstance(values, list) or len(values) != length:
        return None, ()
    if not set(map(type, values)) <= _NUMBERS:
        return _UNUSABLE, ()
    nulls = tuple(at for at, value in enumerate(values) if value is None) if None in values else ()
    return np.array(values, np.float64), nulls


def _told(group: Object, index: int) -> tuple[tuple[str, ...], bool, int]:
    """Finish reasons, truncation and number of sequences, from `overrides` or the line itself."""
    override = _entry(group, "overrides", index)
    told: Object = dict(group) if len(group["tokens"]) == 1 else {}
    if isinstance(override, dict):
        managed = override.get("managed_metadata")
        told = {**told, **override, **(managed if isinstance(managed, dict) else {})}
    reasons = told.get("finish_reasons", told.get("finish_reason"))
    listed = reasons if isinstance(reasons, list) else [reasons]
    words = tuple(word for word in listed if isinstance(word, str))
    truncated = told.get("truncated") is True or str(told.get("stop_reason")) in TRUNCATED_WORDS
    count = told.get("sequences")
    return words, truncated, count if isinstance(count, int) else 1


def _entry(group: Object, name: str, index: int) -> Any:
    column = group.get(name)
    return column[index] if isinstance(column, list) and index < len(column) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _first_not_integer(values: list[Any], *, booleans: bool = False) -> int | None:
    """The position of the first value that is not an integer of 64 bits."""
    # By type, because a bool is an int in Python; by set first, because rows are long.
    kinds = set(map(type, values))
    allowed = {int, bool} if booleans else {int}
    if kinds <= allowed and min(values) >= -(2**63) and max(values) < 2**63:
        return None
    return next(
        (
            at
            for at, value in enumerate(values)
            if type(value) not in allowed or not -(2**63) <= value < 2**63
        ),
        0,
    )
