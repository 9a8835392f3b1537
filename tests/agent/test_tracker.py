import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.agent.tokens import resolve_tokens
from atropos_agent.agent.tracker import Tracker
from atropos_agent.renderer import Bridge
from atropos_agent.trajectory import Break, BreakKind, Completion, FinishReason, LogprobProvenance, Provenance
from tests.tokenizers_for_tests import chatml_renderer

RENDERER = chatml_renderer()
CLOSE = RENDERER.certificate.close_ids

ids = st.lists(st.integers(0, 255), max_size=12).map(lambda values: np.asarray(values, np.int32))
turns = st.lists(st.tuples(ids, ids), min_size=1, max_size=8)


def sampled(token_ids) -> Completion:
    return Completion(
        text="",
        token_ids=token_ids,
        logprobs=np.full(len(token_ids), -0.5, np.float32),
        provenance=Provenance.SAMPLED,
        logprob_provenance=LogprobProvenance.SAMPLED,
    )


@given(ids, turns)
def test_the_sequence_is_what_the_server_saw_and_the_mask_what_it_sampled(opening, conversation):
    tracker = Tracker([], opening)
    seen, trained = list(opening), 0
    for number, (completion, between) in enumerate(conversation, 1):
        span = tracker.add_completion(number, sampled(completion), "")
        assert (span.start, span.end) == (len(seen), len(seen) + len(completion))
        seen += list(completion)
        trained += len(completion)
        end = len(seen)
        tracker.add_bridge(Bridge(between, "", 0, ()))
        seen += list(between)
        assert tracker.prompt.ids.tolist() == seen
        assert tracker.prompt.encoded_ids == ",".join(map(str, seen)).encode()
    (data,) = tracker.sequences()
    assert data.token_ids.tolist() == seen[:end]
    assert data.mask.sum() == trained
    assert np.array_equal(np.isnan(data.logprobs), ~data.mask)
    sampled_ids = [token for span in data.spans for token in data.token_ids[span.start : span.end].tolist()]
    assert data.token_ids[data.mask].tolist() == sampled_ids


@given(ids, turns, st.data())
def test_a_rewritten_history_opens_a_sequence_and_loses_no_turn(opening, conversation, data):
    tracker = Tracker([])
    prompts, broken = [], []
    prompt = np.concatenate([opening, [7]]).astype(np.int32)
    for number, (completion, between) in enumerate(conversation, 1):
        tracker.follow_server_prompt(prompt, lambda _: BreakKind.OTHER)
        assert np.array_equal(tracker.prompt.ids, prompt)
        prompts.append(prompt)
        tracker.add_completion(number, sampled(completion), "")
        prompt = np.concatenate([prompt, completion, between]).astype(np.int32)
        if number < len(conversation) and data.draw(st.booleans()):
            prompt = np.concatenate([[256 + number], prompt]).astype(np.int32)
            broken.append(number + 1)
    spans = [(index, span) for index, found in enumerate(tracker.sequences()) for span in found.spans]
    assert [span.step_number for _, span in spans] == list(range(1, len(conversation) + 1))
    assert [(found.step_number, found.kind) for found in tracker.breaks()] == [(n, "other") for n in broken]
    for (index, span), (completion, _), prompt in zip(spans, conversation, prompts, strict=True):
        sequence = tracker.sequences()[index]
        assert np.array_equal(sequence.token_ids[: span.start], prompt)
        assert np.array_equal(sequence.token_ids[span.start : span.end], completion)


def test_nothing_sampled_is_no_sequence():
    assert Tracker([], np.asarray([1, 2], np.int32)).sequences() == ()


def test_a_prompt_that_nothing_was_sampled_for_is_no_sequence():
    tracker = Tracker([], np.asarray([1, 2], np.int32))
    tracker.add_completion(1, sampled(np.asarray([3], np.int32)), "")
    tracker.begin(np.asarray([4], np.int32), "", BreakKind.TEMPLATE)
    assert [found.tokens for found in tracker.sequences()] == [[1, 2, 3]]
    assert tracker.breaks() == ()
    tracker.begin(np.asarray([5], np.int32), "", BreakKind.OTHER)
    tracker.add_completion(2, sampled(np.asarray([6], np.int32)), "")
    assert [found.tokens for found in tracker.sequences()] == [[1, 2, 3], [5, 6]]
    assert tracker.breaks() == (Break(2, BreakKind.TEMPLATE),)


def test_entries_that_spell_another_text_are_not_believed():
    lied = Completion("what it said", RENDERER.encode("other"), provenance=Provenance.FROM_LOGPROBS)
    honest = resolve_tokens(lied, RENDERER)
    assert honest.provenance is Provenance.RETOKENIZED
    assert honest.logprobs is None
    assert "entries_do_not_spell_text" in honest.notes
    assert RENDERER.decode(honest.token_ids) == "what it said<|im_end|>"


def test_ids_rebuilt_from_bytes_are_kept_where_they_spell_the_text():
    told = Completion(
        "hi",
        token_bytes=(b"h", b"i"),
        logprobs=np.asarray([-0.1, -0.2], np.float32),
        provenance=Provenance.FROM_LOGPROBS,
        logprob_provenance=LogprobProvenance.SAMPLED,
    )
    rebuilt = resolve_tokens(told, RENDERER)
    assert rebuilt.token_ids.tolist() == RENDERER.encode("hi").tolist()
    assert rebuilt.provenance is Provenance.FROM_LOGPROBS
    assert rebuilt.logprobs.tolist() == told.logprobs.tolist()


def test_a_cut_text_gets_no_close():
    cut = resolve_tokens(Completion("hal", finish_reason=FinishReason.LENGTH), RENDERER)
    assert RENDERER.decode(cut.token_ids) == "hal"


def test_sampled_ids_are_never_touched_and_the_text_is_their_decoding():
    ids = np.concatenate([RENDERER.encode("hi"), CLOSE]).astype(np.int32)
    told = Completion("cleaned up", ids, provenance=Provenance.SAMPLED)
    kept = resolve_tokens(told, RENDERER)
    assert kept.token_ids is ids
    assert (kept.text, kept.notes) == ("hi", ("server_text_differs",))
    untold = resolve_tokens(Completion("", ids, provenance=Provenance.SAMPLED), RENDERER)
    assert (untold.text, untold.notes) == ("hi", ())
