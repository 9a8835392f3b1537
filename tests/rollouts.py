"""Rollouts for tests: one to be changed by hand, and any that hypothesis makes."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from enum import StrEnum

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from atropos_agent.trajectory import (
    MAIN,
    AgentResult,
    AgentStep,
    Blame,
    Break,
    BreakKind,
    Completion,
    CompletionPart,
    Failure,
    FailureKind,
    FinishReason,
    Json,
    LogprobMode,
    LogprobProvenance,
    ParseError,
    ParseErrorKind,
    Provenance,
    Rollout,
    RolloutGroup,
    SamplingParams,
    SequenceData,
    Spent,
    StepSpan,
    StopReason,
    Timings,
    ToolCall,
    ToolResult,
    Trace,
    branch_of,
)

ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
COUNT = st.integers(0, 2**40)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
LOGPROB = st.floats(width=32, allow_infinity=False, max_value=0.0) | st.just(float("nan"))
TOKEN = st.integers(0, 2**31 - 1)
JSON: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOAT | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
SPAN = st.tuples(st.integers(0, 999), st.integers(0, 999))
CALLS = st.builds(ToolCall, TEXT, OBJECT, TEXT, TEXT, SPAN)
RESULTS = st.builds(ToolResult, st.booleans(), TEXT, TEXT, OBJECT, st.none() | TEXT, OBJECT)
PARSE_ERRORS = st.builds(ParseError, st.sampled_from(ParseErrorKind), TEXT, SPAN)
BREAKS = st.builds(Break, st.integers(2, 999), st.sampled_from(BreakKind))
FAILURES = st.builds(
    Failure, st.sampled_from(FailureKind), st.sampled_from(Blame), st.booleans(), TEXT, TEXT, TEXT
)
SAMPLING = st.builds(SamplingParams, FLOAT, FLOAT, COUNT, FLOAT, st.none() | COUNT, st.none() | COUNT)
TIMINGS = st.builds(Timings, FLOAT, FLOAT, COUNT)
SPENT = st.builds(Spent, FLOAT, FLOAT, FLOAT)
PARTS = st.builds(
    CompletionPart,
    COUNT,
    st.none() | TEXT,
    st.none() | st.sampled_from(FinishReason),
    st.none() | COUNT,
    st.none() | COUNT,
    st.none() | TIMINGS,
    st.none() | COUNT,
)
CONTENT_PARTS = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}) | st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": TEXT})}
)
CONTENT = TEXT | st.lists(CONTENT_PARTS, max_size=2)
MESSAGE_CALLS = st.fixed_dictionaries(
    {
        "id": TEXT,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": TEXT, "arguments": OBJECT}),
    }
)
MESSAGES = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": CONTENT}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": CONTENT},
        optional={"reasoning": TEXT, "tool_calls": st.lists(MESSAGE_CALLS, max_size=2)},
    ),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "content": CONTENT, "tool_call_id": TEXT}, optional={"name": TEXT}
    ),
)
SIDE_DTYPES = ["<f4", "<f8", "<f2", "<i2", "|u1", "|b1", ">i4"]
PROVENANCES = st.tuples(
    st.sampled_from(Provenance), st.sampled_from(LogprobProvenance), st.sampled_from(LogprobMode)
)

NAN = float("nan")
NEUTRAL = SamplingParams()


def a_rollout(
    index=0,
    score: float | None = 1.0,
    *,
    logprobs=(-0.5, -0.25),
    mode=LogprobMode.PROCESSED,
    sampling=NEUTRAL,
    stop=StopReason.FINAL_ANSWER,
    sequences=1,
) -> Rollout:
    """Prompt ids 7, 8; sampled ids 1, 2; one sequence and one step each."""
    held, steps = [], []
    for number in range(sequences):
        span = StepSpan(number + 1, 2, 4, Provenance.SAMPLED, LogprobProvenance.SAMPLED, mode)
        held.append(
            SequenceData(
                np.array([7, 8, 1, 2 + number], np.int32),
                np.array([False, False, True, True]),
                np.array([NAN, NAN, *logprobs], np.float32),
                (span,),
            )
        )
        completion = Completion("said", sampling=replace(sampling, seed=index))
        steps.append(AgentStep(number + 1, "said", completion, sequence_index=number, span=span))
    result = AgentResult(
        True,
        "said",
        stop,
        tuple(steps),
        tuple(held),
        prompt_messages=({"role": "user", "content": "do"},),
        breaks=tuple(Break(number, BreakKind.TEMPLATE) for number in range(2, sequences + 1)),
    )
    return Rollout(f"r{index}", "item", index, (Trace(result, score=score),))


def with_result(rollout: Rollout, **changes) -> Rollout:
    """The rollout with other fields in the result of its only trace."""
    trace = rollout.trace
    return replace(rollout, traces=(replace(trace, result=replace(trace.result, **changes)),))


def group_of(*rollouts: Rollout) -> RolloutGroup:
    return RolloutGroup("item", 0, rollouts)


@st.composite
def sequences(draw: st.DrawFn) -> SequenceData:
    """A prompt and up to three sampled spans with observations between them, and side arrays."""
    prompt = draw(st.lists(TOKEN, max_size=4))
    ids, mask, logprobs, spans = draw(sampled_after(prompt))
    return SequenceData(ids, mask, logprobs, spans, side=draw(sides(len(ids))))


@st.composite
def branches(draw: st.DrawFn, parent: SequenceData) -> SequenceData:
    """A later sequence that begins like `parent` up to some token, and then leaves it."""
    shared = parent.tokens[: draw(st.integers(0, len(parent)))]
    ids, mask, logprobs, spans = draw(sampled_after([*shared, *draw(st.lists(TOKEN, max_size=2))]))
    branch = branch_of(parent, ids, mask, logprobs, spans)
    return replace(branch, side=draw(sides(len(ids))))


@st.composite
def sampled_after(draw: st.DrawFn, ids: list[int]):
    """Ids, mask, logprobs and spans of a sequence that begins with the context `ids`."""
    ids = list(ids)
    mask, logprobs, spans = [False] * len(ids), [float("nan")] * len(ids), list[StepSpan]()
    for number in range(1, draw(st.integers(0, 3)) + 1):
        sampled = draw(st.lists(st.tuples(TOKEN, LOGPROB), max_size=5))
        observed = draw(st.lists(TOKEN, max_size=3))
        start = len(ids)
        spans.append(StepSpan(number, start, start + len(sampled), *draw(PROVENANCES)))
        ids += [token for token, _ in sampled] + observed
        mask += [True] * len(sampled) + [False] * len(observed)
        logprobs += [value for _, value in sampled] + [float("nan")] * len(observed)
    return np.array(ids, np.int32), np.array(mask, np.bool_), np.array(logprobs, np.float32), tuple(spans)


@st.composite
def sides(draw: st.DrawFn, length: int) -> dict[str, np.ndarray]:
    """Arrays aligned with `length` tokens, of any numeric dtype, with one number a token or several."""
    found: dict[str, np.ndarray] = {}
    for name in draw(st.lists(TEXT, max_size=2, unique=True)):
        dtype, width = np.dtype(draw(st.sampled_from(SIDE_DTYPES))), draw(st.sampled_from([0, 1, 3]))
        shape = (length, width) if width else (length,)
        content = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, shape)
        found[name] = content.astype(dtype)
    return found


@st.composite
def completions(draw: st.DrawFn, text: str, sequence: SequenceData, span: StepSpan) -> Completion:
    """A completion whose ids are those of its span, others, bytes, or none."""
    ids, token_bytes, values, prompt = None, None, None, None
    match draw(st.sampled_from(["span", "other", "bytes", "none"])):
        case "span":
            ids, values = sequence.token_ids[span.start : span.end], sequence.logprobs[span.start : span.end]
            prompt = sequence.token_ids[: span.start]
        case "other":
            pairs = draw(st.lists(st.tuples(TOKEN, LOGPROB), max_size=4))
            ids = np.array([token for token, _ in pairs], np.int32)
            values = np.array([value for _, value in pairs], np.float32)
            prompt = np.array(draw(st.lists(TOKEN, max_size=4)), np.int32)
        case "bytes":
            token_bytes = tuple(draw(st.lists(st.binary(max_size=3), max_size=3)))
    provenance, logprob_provenance, mode = draw(PROVENANCES)
    return Completion(
        text=draw(st.just(text) | TEXT),
        token_ids=ids,
        token_bytes=token_bytes,
        logprobs=values,
        finish_reason=draw(st.sampled_from(FinishReason)),
        provenance=provenance,
        logprob_provenance=logprob_provenance,
        logprob_mode=mode,
        prompt_token_ids=draw(st.sampled_from([prompt, None])),
        usage_prompt_tokens=draw(st.none() | COUNT),
        usage_completion_tokens=draw(st.none() | COUNT),
        sampling=draw(SAMPLING),
        timings=draw(TIMINGS),
        model=draw(TEXT),
        weight_version=draw(st.none() | TEXT),
        notes=tuple(draw(st.lists(TEXT, max_size=2))),
        reasoning=draw(st.just("") | TEXT),
        calls=tuple(draw(st.lists(CALLS, max_size=1))),
        parts=tuple(draw(st.lists(PARTS, max_size=2))),
    )


@st.composite
def steps(draw: st.DrawFn, sequence_index: int, sequence: SequenceData, span: StepSpan) -> AgentStep:
    """One step of `sequence`; now and then one that nothing tracks."""
    text = draw(TEXT)
    tracked = draw(st.booleans())
    return AgentStep(
        step_number=span.step_number,
        assistant_message=text,
        completion=draw(completions(text, sequence, span)),
        tool_calls=tuple(draw(st.lists(CALLS, max_size=2))),
        tool_results=tuple(draw(st.lists(RESULTS, max_size=2))),
        parse_errors=tuple(draw(st.lists(PARSE_ERRORS, max_size=2))),
        following=tuple(draw(st.lists(MESSAGES, max_size=2))),
        sequence_index=sequence_index if tracked else None,
        span=span if tracked else None,
        turn=draw(st.integers(1, 3)),
        executed=tuple(draw(st.lists(st.none() | CALLS, max_size=2))),
    )


@st.composite
def results(draw: st.DrawFn) -> AgentResult:
    """What any agent recorded; the history may be rewritten twice."""
    held = draw(st.lists(sequences(), max_size=1))
    for _ in range(draw(st.integers(0, 2)) if held else 0):
        held.append(draw(branches(draw(st.sampled_from(held)))))
    return AgentResult(
        success=draw(st.booleans()),
        final_response=draw(TEXT),
        stop_reason=draw(st.sampled_from(StopReason)),
        steps=tuple(
            draw(steps(index, sequence, span))
            for index, sequence in enumerate(held)
            for span in sequence.spans
        ),
        sequences=tuple(held),
        prompt_messages=tuple(draw(st.lists(MESSAGES, max_size=2))),
        total_tokens=draw(COUNT),
        failure=draw(st.none() | FAILURES),
        metadata=draw(OBJECT),
        breaks=tuple(draw(st.lists(BREAKS, max_size=2))),
        spent=draw(st.just(Spent()) | SPENT),
    )


@st.composite
def traces(draw: st.DrawFn, name: str = MAIN, *, trainable: bool = True) -> Trace:
    """Any trace, scored or failed."""
    return Trace(
        draw(results()),
        name=name,
        trainable=trainable,
        parent_call=draw(st.none() | TEXT),
        score=draw(st.none() | FLOAT),
        parts=draw(st.dictionaries(TEXT, FLOAT, max_size=2)),
        step_rewards=tuple(draw(st.lists(st.none() | FLOAT, max_size=2))),
    )


@st.composite
def rollouts(draw: st.DrawFn, item_id: str | None = None) -> Rollout:
    """Any rollout, scored or failed, tracked or not, of one agent or of two."""
    helper = st.just(()) | st.tuples(traces("helper", trainable=False)) | st.tuples(traces("helper"))
    return Rollout(
        id=draw(TEXT),
        item_id=draw(TEXT) if item_id is None else item_id,
        index=draw(COUNT),
        traces=(draw(traces()), *draw(helper)),
        metadata=draw(OBJECT),
        isolation=draw(OBJECT),
        started_at=draw(FLOAT),
        duration_s=draw(FLOAT),
        attempts=draw(COUNT),
    )


def plain(value: object) -> object:
    """Nested plain data that compares by content: arrays with their dtype, NaN as a name."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, float) and np.isnan(value):
        return "nan"
    if isinstance(value, StrEnum):
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return (type(value).__name__, fields)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (type(value).__name__, [plain(item) for item in value])
    return (type(value).__name__, value)
