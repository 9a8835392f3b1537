import contextlib
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.sandbox.inside import frames, report
from atropos_agent.sandbox.inside.capture import Capture

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.tuples(st.dictionaries(st.text(), json_values, max_size=4), st.binary(max_size=300)), max_size=5
)


def pieces(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def all_frames(reader):
    return list(iter(reader.take, None))


@given(messages, st.lists(st.integers(min_value=0), max_size=20))
def test_frames_survive_any_cutting_of_the_stream(sent, cuts):
    reader = frames.FrameReader()
    received = []
    for piece in pieces(b"".join(frames.encode(meta, payload) for meta, payload in sent), cuts):
        reader.feed(piece)
        received += all_frames(reader)
    assert received == [frames.Frame(meta, payload) for meta, payload in sent]
    assert reader.pending == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_an_error_or_not_yet_enough(data):
    reader = frames.FrameReader(max_meta=100, max_payload=100)
    reader.feed(data)
    try:
        for frame in all_frames(reader):
            assert isinstance(frame.meta, dict)
    except frames.FrameError:
        pass
    assert reader.pending <= len(data)


@given(st.binary(min_size=1, max_size=100), st.binary(max_size=50), st.integers(min_value=0))
def test_a_damaged_frame_is_never_another_exception(payload, damage, place):
    data = bytearray(frames.encode({"status": "exited", "n": 1}, payload))
    at = place % len(data)
    data[at : at + len(damage)] = damage
    reader = frames.FrameReader()
    reader.feed(bytes(data))
    with contextlib.suppress(frames.FrameError):
        all_frames(reader)


@pytest.mark.parametrize("sizes", [(101, 0), (0, 101), (2**32 - 1, 2**32 - 1)])
def test_a_length_out_of_bounds_is_refused_from_the_prefix_alone(sizes):
    reader = frames.FrameReader(max_meta=100, max_payload=100)
    reader.feed(frames.PREFIX.pack(*sizes))
    with pytest.raises(frames.FrameError, match="announced"):
        reader.take()


@pytest.mark.parametrize("head", [b"[]", b"1", b"{", b'{"a":', b"\xff", b"[" * 100_000])
def test_a_header_that_is_no_object_is_refused(head):
    reader = frames.FrameReader()
    reader.feed(frames.PREFIX.pack(len(head), 0) + head)
    with pytest.raises(frames.FrameError):
        reader.take()


@pytest.mark.parametrize("read", [frames.integer, frames.number, frames.text, frames.sequence])
@pytest.mark.parametrize("value", [None, {}, True])
def test_a_field_of_a_wrong_type_is_refused(read, value):
    with pytest.raises(frames.FrameError, match="'key'"):
        read({"key": value}, "key")
    with pytest.raises(frames.FrameError):
        read({}, "key")


def test_too_large_a_frame_is_not_sent():
    with pytest.raises(frames.FrameError):
        frames.encode({"x": "y" * (frames.MAX_META + 1)})


@given(st.lists(st.binary(max_size=40)), st.integers(min_value=0, max_value=60))
def test_a_capture_holds_head_and_tail_within_its_budget(chunks, kept):
    capture = Capture(kept)
    for chunk in chunks:
        capture.add(chunk)
    whole = b"".join(chunks)
    head = kept - kept // 2
    expected = whole if len(whole) <= kept else whole[:head] + whole[len(whole) - kept // 2 :]
    assert (capture.value(), capture.total) == (expected, len(whole))


def test_an_empty_header_is_nothing():
    assert frames.encode({}, b"ab") == frames.PREFIX.pack(0, 2) + b"ab"


def test_headers_are_plain_json():
    data = frames.encode({"name": "é\udcff"})
    assert json.loads(data[frames.PREFIX.size :]) == {"name": "é\udcff"}


@given(
    st.sampled_from(report.STATUSES),
    st.integers(-64, 255),
    st.binary(max_size=40),
    st.binary(max_size=40),
    st.integers(min_value=0, max_value=60),
    st.floats(min_value=0, max_value=1e9),
    st.floats(min_value=0, max_value=1e9) | st.none(),
)
def test_a_report_says_what_was_put_in(status, code, stdout, stderr, kept, duration_s, cpu_s):
    captures = Capture(kept), Capture(kept)
    captures[0].add(stdout)
    captures[1].add(stderr)
    measured = math.nan if cpu_s is None else cpu_s
    parts = report.pack(status, code, *captures, duration_s=duration_s, cpu_s=measured, memory_kills=3)
    assert report.unpack(b"".join(parts), kept) == report.Report(
        status,
        code,
        captures[0].value(),
        captures[1].value(),
        len(stdout),
        len(stderr),
        3,
        duration_s,
        cpu_s,
    )
