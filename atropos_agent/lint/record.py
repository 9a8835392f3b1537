"""Checks of our own records: rollouts, and the group that is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from atropos_agent.errors import RecordError
from atropos_agent.export.atropos import shaped
from atropos_agent.export.rows import Rules, was_truncated
from atropos_agent.lint.findings import Finding
from atropos_agent.lint.reading import Object
from atropos_agent.lint.rows import Ids, Row
from atropos_agent.lint.tokens import first
from atropos_agent.record.codec import SCHEMA_VERSION, rollout_from_json
from atropos_agent.trajectory import (
    IGNORED_TOKEN,
    LogprobProvenance,
    Provenance,
    Rollout,
    RolloutGroup,
    SequenceData,
    Trace,
)


def is_record(value: Object) -> bool:
    """True for a line of `groups.jsonl` or of a file in `pending/`."""
    return "schema" in value and ("rollouts" in value or "rollout" in value)


def check_schema(value: Object) -> Iterator[Finding]:
    """A record of a later version, or of none."""
    version = value["schema"]
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        text = f"schema {version!r}, this version reads up to {SCHEMA_VERSION}: upgrade atropos-agent"
        yield Finding("schema-newer", text)


def rollouts_of(value: Object) -> list[Rollout | Finding]:
    """The rollouts on a line of a schema we read, in order; a Finding for each that cannot be read."""
    listed = value["rollouts"] if "rollouts" in value else [value["rollout"]]
    found: list[Rollout | Finding] = []
    for index, record in enumerate(listed if isinstance(listed, list) else [listed]):
        try:
            found.append(rollout_from_json(record, value["schema"]))
        except RecordError as error:
            found.append(Finding("record-malformed", f"{error}: the run cannot be read", index))
    return found


def derived_group(value: Object, rollouts: Sequence[Rollout], rules: Rules) -> Object | None:
    """The group that a trainer gets of the rollouts on a line; None where it gets none."""
    group = RolloutGroup(str(value.get("item_id")), 0, tuple(rollouts))
    if not rules.is_complete(group):
        return None
    try:
        return {**shaped(group, rules)}
    except RecordError:
        return None


def rows_of(trace: Trace, index: int) -> Iterator[Row]:
    """The training sequences of `trace` as rows, all under the number `index`."""
    result = trace.result
    for number, sequence in enumerate(result.sequences):
        steps = [step for step in result.steps if step.sequence_index == number]
        given = np.array(sequence.masked_logprobs, np.float64) if sequence.has_all_logprobs else None
        yield Row(
            index=index,
            ids=sequence.token_ids.astype(np.int64),
            trained=sequence.mask,
            logprobs=given,
            finish_reasons=tuple(step.completion.finish_reason.value for step in steps),
            truncated=was_truncated(trace),
            sequences=len(result.sequences),
        )


def check_trace(trace: Trace, index: int) -> Iterator[Finding]:
    """Provenance, spans and prefix of one trace of the rollout with the number `index`."""
    sequences = trace.result.sequences
    if len(sequences) > 1:
        text = f"history was rewritten: {len(sequences)} sequences; one-row exports take the last or none"
        yield Finding("prefix-break", text, index)
    for sequence in sequences:
        yield from _check_spans(sequence, index)
        for span in sequence.spans:
            values = sequence.logprobs[span.start : span.end]
            has_some = (
                bool((~np.isnan(values)).any()) and span.logprob_provenance is not LogprobProvenance.RESCORED
            )
            if span.provenance is Provenance.RETOKENIZED and has_some:
                text = "logprobs of sampled tokens on re-encoded tokens: they belong to other ids"
                yield Finding("retokenized-with-logprobs", text, index, span.start)
                break


def _check_spans(sequence: SequenceData, index: int) -> Iterator[Finding]:
    spanned = np.zeros(len(sequence), np.bool_)
    for span in sequence.spans:
        spanned[span.start : span.end] = True
    if (at := first(spanned != sequence.mask)) is not None:
        text = "the steps' spans and the mask disagree on what was sampled"
        yield Finding("span-mismatch", text, index, at)


def claims_wrongly(overrides: object) -> Iterator[Finding]:
    """Rows whose `overrides` claim sampled logprobs on retokenized ids."""
    for index, override in enumerate(overrides if isinstance(overrides, list) else []):
        managed = _managed(override)
        spans = zip(_words(managed, "provenance"), _words(managed, "logprob_provenance"), strict=False)
        if any(pair == (Provenance.RETOKENIZED, LogprobProvenance.SAMPLED) for pair in spans):
            text = "logprobs of sampled tokens on re-encoded tokens: they belong to other ids"
            yield Finding("retokenized-with-logprobs", text, index)


def check_against_rollouts(
    group: Object, rows: Sequence[Row], rollouts: Sequence[Rollout]
) -> Iterator[Finding]:
    """Rows of a stored group (schemas 1 and 2) that differ from the rollouts on the same line."""
    named = {rollout.id: rollout for rollout in rollouts}
    for row in rows:
        name, number = origin(group, row)
        rollout = named.get(name)
        if rollout is None:
            text = f"names rollout {name!r}, which is not on this line"
            yield Finding("group-record-mismatch", text, row.index)
            continue
        score = _at(group.get("scores"), row.index)
        if score != rollout.score:
            text = f"score {score!r}, its rollout has {rollout.score!r}"
            yield Finding("group-record-mismatch", text, row.index)
        if 0 <= number < len(rollout.result.sequences):
            masks = np.array(group["masks"][row.index], np.int64)
            yield from _differences(row, masks, rollout.result.sequences[number])


def _differences(row: Row, masks: Ids, sequence: SequenceData) -> Iterator[Finding]:
    common = min(len(row.ids), len(sequence))
    at = first(row.ids[:common] != sequence.token_ids[:common])
    if at is not None or len(row.ids) != len(sequence):
        found = common if at is None else at
        yield Finding("group-record-mismatch", "its tokens are not its rollout's", row.index, found)
        return
    trained = masks != IGNORED_TOKEN
    if trained.any() and (at := first(trained != sequence.mask)) is not None:
        text = "its mask is not its rollout's: other tokens are trained than were sampled"
        yield Finding("group-record-mismatch", text, row.index, at)


def origin(group: Object, row: Row) -> tuple[str, int]:
    """The id of the rollout and the number of its sequence from which a row of `group` was made, as its
    `overrides` say; "" and -1 where they do not."""
    managed = _managed(_at(group.get("overrides"), row.index))
    named, number = managed.get("rollout_id"), managed.get("sequence_index")
    return named if isinstance(named, str) else "", number if isinstance(number, int) else -1


def _managed(override: object) -> Mapping[str, Any]:
    managed = override.get("managed_metadata") if isinstance(override, dict) else None
    return managed if isinstance(managed, dict) else {}


def _words(managed: Mapping[str, Any], name: str) -> list[Any]:
    words = managed.get(name)
    return words if isinstance(words, list) else []


def _at(column: object, index: int) -> Any:
    return column[index] if isinstance(column, list) and index < len(column) else None
