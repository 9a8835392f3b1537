"""`report.html`: one run in one file that opens in any browser and makes no network request.

The data is embedded as JSON that no HTML parser can mistake for markup, and the page shows it as text only:
the output of a model or a tool never becomes an element. The content security policy names the page's own
script by its hash, so no other script can run.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import TypeAlias

import numpy as np
import yaml

from atropos_agent.errors import RecordError, RunDirectoryError
from atropos_agent.export import Rules
from atropos_agent.record import GroupRecord, read_groups, read_manifest
from atropos_agent.record.durable import write_whole
from atropos_agent.record.jsonl import decode_line, encode_line, short_floats
from atropos_agent.record.rundir import LOGPROB_CHECK
from atropos_agent.sinks.summary import RunSummary, summary_of
from atropos_agent.trajectory import AgentStep, Json, Rollout, SequenceData, Trace, text_of

REPORT = "report.html"
PACKAGE = "atropos_agent.sinks"
TEMPLATE = "report.html"
DATA_MARK = "__DATA__"
SCRIPT_HASH_MARK = "__SCRIPT_HASH__"
BINS = 24
DISTINCT_BARS = 12

Decode: TypeAlias = Callable[[Sequence[int]], list[str]]
Place: TypeAlias = tuple[int, int]

# "<" could close the script element around the data; U+2028 and U+2029 end a line in older JavaScript.
_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


@dataclass(frozen=True, slots=True, eq=False)
class _Survey:
    """One pass over the run: its numbers, and which rollouts (group, index) the report shows."""

    summary: RunSummary
    shown: frozenset[Place]


def write_report(run_path: Path | str, *, max_trajectories: int = 200, decode: Decode | None = None) -> Path:
    """Write `report.html` into the run at `run_path` and return its path.

    All recorded rollouts are counted; at most `max_trajectories` are shown, taken in turn from every pair
    of stop reason and score. `decode` gives one text per token id (`visible_pieces` makes them from
    bytes); without it the token view shows ids. Raises RunDirectoryError.
    """
    run_path = Path(run_path)
    manifest = read_manifest(run_path)
    survey = _survey(run_path, max_trajectories)
    data: dict[str, Json] = {
        "name": run_path.resolve().name,
        "settings": yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True),
        "summary": _summary(survey.summary),
        "shortfalls": survey.summary.shortfalls(_asked(manifest)),
        "charts": _charts(survey.summary),
        "logprob_check": _logprob_check(run_path / LOGPROB_CHECK),
        "trajectories": list(_trajectories(run_path, survey.shown, decode)),
    }
    report = run_path / REPORT
    try:
        write_whole(report, _page(data))
    except OSError as error:
        raise RunDirectoryError(f"{report} cannot be written: {error.strerror or error}") from error
    return report


def visible_pieces(token_bytes: Sequence[bytes]) -> list[str]:
    """One text per token: bytes that are not valid UTF-8 by themselves are shown as \\xNN."""
    return [piece.decode("utf-8", "backslashreplace") for piece in token_bytes]


def _page(data: Mapping[str, Json]) -> str:
    template = files(PACKAGE).joinpath(TEMPLATE).read_text("utf-8")
    script = template.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    embedded = encode_line(data).decode().strip().translate(_ESCAPES)
    # One replacement each: the data itself may contain the marks.
    return template.replace(SCRIPT_HASH_MARK, digest, 1).replace(DATA_MARK, embedded, 1)


def _survey(run_path: Path, most: int) -> _Survey:
    kinds: defaultdict[tuple[str, str], deque[Place]] = defaultdict(deque)

    def watched() -> Iterator[GroupRecord]:
        for number, record in enumerate(read_groups(run_path)):
            for index, rollout in enumerate(record.rollouts):
                kinds[_kind(rollout)].append((number, index))
            yield record

    summary = summary_of(watched(), Rules.recorded(run_path))
    return _Survey(summary, frozenset(_in_turn([kinds[kind] for kind in sorted(kinds)], most)))


def _kind(rollout: Rollout) -> tuple[str, str]:
    """Stop reason and score; those of all traces where there are several."""
    # Rounded: with exact scores, a run of continuous scores would have a kind for each rollout.
    scores = ["" if trace.score is None else f"{trace.score:.1f}" for trace in rollout.traces]
    return " ".join(trace.result.stop_reason.value for trace in rollout.traces), " ".join(scores)


def _in_turn(queues: Sequence[deque[Place]], most: int) -> Iterator[Place]:
    """Up to `most` places, one from each queue in turn."""
    taken = 0
    while taken < most and any(queues):
        for queue in queues:
            if queue and taken < most:
                yield queue.popleft()
                taken += 1


def _asked(manifest: Mapping[str, Json]) -> int:
    """How many groups the run was asked for; 0 if its `run.yaml` does not say."""
    found: Json = dict(manifest)
    for name in ("config", "collect", "groups"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) else 0


def _summary(summary: RunSummary) -> dict[str, Json]:
    return {
        "groups": summary.groups,
        "mixed_groups": summary.mixed_groups,
        "rollouts": summary.rollouts,
        "scored": len(summary.scores),
        "mean_score": summary.mean_score,
        "tokens": sum(summary.tokens),
        "tool_calls": summary.tool_calls,
        "parse_errors": summary.parse_errors,
        "trained_tokens": summary.trained_tokens,
        "tracked_tokens": summary.tracked_tokens,
        "logprobs": summary.logprobs,
        "unsafe": summary.unsafe,
        "started_at": summary.started_at,
        "elapsed_s": summary.elapsed_s,
        "models": dict(summary.models.most_common()),
        "backends": dict(summary.backends.most_common()),
        "provenance": dict(summary.steps_by_provenance.most_common()),
    }


def _logprob_check(file: Path) -> Json:
    """The result of `check-logprobs`, None if it has not been run."""
    if not file.exists():
        return None
    try:
        return decode_line(file.read_bytes())
    except (OSError, RecordError) as error:
        raise RunDirectoryError(f"{file} cannot be read ({error}); run check-logprobs again") from error


def _charts(summary: RunSummary) -> list[dict[str, Json]]:
    """Each chart as labelled counts: `columns` stand side by side, `rows` below each other."""
    charts: list[dict[str, Json]] = [
        {"title": "Reward", "unit": "rollouts", "columns": _histogram(summary.scores)},
        {"title": "Stop reasons", "unit": "rollouts", "rows": _ranked(summary.stop_reasons)},
        {"title": "Sampled tokens", "unit": "rollouts", "columns": _histogram(summary.tokens)},
        {"title": "Turns", "unit": "rollouts", "columns": _histogram(summary.turns)},
        {"title": "Errors", "unit": "rollouts", "rows": _ranked(summary.errors)},
        {"title": "Prefix breaks", "unit": "sequences", "rows": _ranked(summary.breaks)},
        {"title": "Groups held back", "unit": "groups", "rows": _ranked(summary.dropped)},
    ]
    return [chart for chart in charts if chart.get("columns") or chart.get("rows")]


def _ranked(counts: Mapping[str, int]) -> list[list[Json]]:
    return [[name, count] for name, count in sorted(counts.items(), key=lambda item: -item[1])]


def _histogram(values: Sequence[float]) -> list[list[Json]]:
    """Counts per value where there are few of them, else per bin of equal width."""
    if not values:
        return []
    bars: Sequence[float] = sorted(set(values))
    if _are_whole(values) and max(values) - min(values) < DISTINCT_BARS:
        bars = range(int(min(values)), int(max(values)) + 1)
    if len(bars) <= DISTINCT_BARS:
        return [[_short(value), values.count(value)] for value in bars]
    counts, edges = np.histogram(values, bins=_edges(values))
    labels = [f"{_short(low)} – {_short(high)}" for low, high in pairwise(edges)]
    return [[label, int(count)] for label, count in zip(labels, counts, strict=True)]


def _edges(values: Sequence[float]) -> list[float]:
    """Bounds of at most BINS bins of equal width, whole numbers where all values are."""
    low, high = min(values), max(values)
    width = (high - low) / BINS
    if _are_whole(values):
        width = ceil((high - low + 1) / BINS)
    count = max(1, ceil((high - low) / width)) if width else 1
    return [low + width * number for number in range(count)] + [max(high, low + width * count)]


def _are_whole(values: Sequence[float]) -> bool:
    return all(isinstance(value, int) for value in values)


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _trajectories(
    run_path: Path, shown: frozenset[Place], decode: Decode | None
) -> Iterator[dict[str, Json]]:
    for number, record in enumerate(read_groups(run_path)):
        for index, rollout in enumerate(record.rollouts):
            for trace in rollout.traces if (number, index) in shown else ():
                yield {
                    **_trajectory(rollout, trace, decode),
                    "repetition": record.repetition,
                    "dropped": record.dropped,
                    "group": [_score_of(other, trace.name) for other in record.rollouts],
                    "place": index,
                }


def _score_of(rollout: Rollout, name: str) -> float | None:
    return next((trace.score for trace in rollout.traces if trace.name == name), None)


def _trajectory(rollout: Rollout, trace: Trace, decode: Decode | None) -> dict[str, Json]:
    result = trace.result
    return {
        "id": rollout.id if len(rollout.traces) == 1 else f"{rollout.id} {trace.name}",
        "item": rollout.item_id,
        "score": trace.score,
        "parts": dict(trace.parts),
        "stop": result.stop_reason.value,
        "error": result.error,
        "error_type": result.error_type,
        "duration_s": rollout.duration_s,
        "attempts": rollout.attempts,
        "tokens": result.total_tokens,
        "prompt": [{"role": m["role"], "content": text_of(m)} for m in result.prompt_messages],
        "steps": [_step(step) for step in result.steps],
        "sequences": [_sequence(sequence, decode) for sequence in result.sequences],
        "breaks": [[found.step_number, found.kind.value] for found in result.breaks],
    }


def _step(step: AgentStep) -> dict[str, Json]:
    completion = step.completion
    names = {call.uniq_id: call.name for call in step.tool_calls}
    return {
        "number": step.step_number,
        "segments": _segments(step),
        "problems": [f"{error.kind.value}: {error.detail}" for error in step.parse_errors],
        "results": [
            {
                "name": names.get(result.uniq_id or "", "tool"),
                "success": result.success,
                "output": result.output,
                "error": result.error,
            }
            for result in step.tool_results
        ],
        "observation": step.observation,
        "finish": completion.finish_reason.value,
        "provenance": (step.span or completion).provenance.value,
        "logprobs": (step.span or completion).logprob_provenance.value,
        "tokens": completion.usage_completion_tokens,
        "request_s": completion.timings.request_s,
        "notes": list(completion.notes),
    }


def _segments(step: AgentStep) -> list[list[Json]]:
    """The assistant message cut into [kind, text]: reasoning, calls as the policy wrote them, and text."""
    text = step.assistant_message
    closed = text.find("</think>")
    start = closed + len("</think>") if closed >= 0 else 0
    found: list[tuple[str, str]] = [("reasoning", step.completion.reasoning), ("reasoning", text[:start])]
    for call in sorted(step.tool_calls, key=lambda call: call.span):
        first, last = call.span
        if start <= first < last <= len(text):
            found += [("text", text[start:first]), ("call", text[first:last])]
            start = last
    found.append(("text", text[start:]))
    return [[kind, part] for kind, part in found if part.strip()]


def _sequence(sequence: SequenceData, decode: Decode | None) -> dict[str, Json]:
    ids = sequence.tokens
    present = ~np.isnan(sequence.logprobs)
    return {
        "ids": ids,
        "pieces": None if decode is None else list(decode(ids)),
        "mask": _bits(sequence.mask.tolist()),
        "has_logprob": _bits(present.tolist()),
        "logprobs": short_floats(sequence.logprobs[present]),
        "spans": [[span.step_number, span.start, span.end, span.provenance.value] for span in sequence.spans],
    }


def _bits(flags: Sequence[bool]) -> str:
    return "".join("1" if flag else "0" for flag in flags)
