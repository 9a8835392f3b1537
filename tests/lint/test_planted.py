"""Every kind of defect, planted into clean data, is found where it was planted, and nothing else is."""

import asyncio
import copy
import json
import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atropos_agent.export import scored_groups
from atropos_agent.lint import CODES, Linter, Source, Vocabulary
from atropos_agent.record.codec import SCHEMA_VERSION
from tests.lint.clean_run import write_clean_run
from tests.lint.plants import PLANTS, RENDERER, ROW, ROW_COLUMNS, STOP

GROUPS = 12
HOST = 4
"""The clean group that takes the defect: its row ROW has four whole turns."""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("clean") / "run"
    asyncio.run(write_clean_run(path, GROUPS, RENDERER))
    lines = (path / "groups.jsonl").read_bytes().splitlines()
    stored = zip(lines, scored_groups(path), strict=True)
    return [orjson.loads(line) | {"group": group} for line, group in stored]  # as schemas 1 and 2 did


def found_in(path, lines, known=None):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    linter = Linter(Source(path, known or Vocabulary.of(RENDERER)))
    return [(found.line, found.code, found.trajectory, found.token) for found in linter.run()]


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_defect_is_found_where_it_is_and_nothing_else(name, records, tmp_path):
    groups = copy.deepcopy([record["group"] for record in records])
    expected = PLANTS[name](groups[HOST])
    found = found_in(tmp_path / "groups.jsonl", groups)
    assert sorted(found, key=str) == sorted(((HOST + 1, *place) for place in expected), key=str)


def test_all_defects_in_one_file_are_found_at_their_lines(records, tmp_path):
    lines, expected = [], []
    for name, plant in PLANTS.items():
        group = copy.deepcopy(records[HOST]["group"])
        for index, ids in enumerate(group["tokens"]):  # the file's lines are otherwise all the same
            ids[0] = len(lines) * len(group["tokens"]) + index
        if name in ("drift", "small_group"):
            continue
        expected += [(len(lines) + 1, *place) for place in plant(group)]
        lines.append(group)
    found = [item for item in found_in(tmp_path / "all.jsonl", lines) if item[1] != "decode-encode-drift"]
    assert sorted(set(expected) - set(found), key=str) == []
    assert len({code for _, code, _, _ in expected}) >= 25


RECORD_ROW = 3


def result_of(record, row=RECORD_ROW):
    return record["rollouts"][row]["traces"][0]["result"]


def newer_schema(record):
    record["schema"] = SCHEMA_VERSION + 1
    return [("schema-newer", None, None)]


def unreadable_rollout(record):
    del record["rollouts"][RECORD_ROW]["id"]
    return [("record-malformed", RECORD_ROW, None)]


def another_score(record):
    record["group"]["scores"][RECORD_ROW] += 0.5
    return [("group-record-mismatch", RECORD_ROW, None)]


def another_mask(record):
    at = result_of(record)["sequences"][0]["own_mask"][0][0] + 3
    record["group"]["masks"][RECORD_ROW][at] = -100
    return [("group-record-mismatch", RECORD_ROW, at)]


def other_tokens(record):
    result_of(record)["sequences"][0]["own_ids"][5] += 1
    return [("group-record-mismatch", RECORD_ROW, 5)]


def a_row_of_no_rollout(record):
    record["group"]["overrides"][RECORD_ROW]["managed_metadata"]["rollout_id"] = "nobody"
    result_of(record)["sequences"] = []
    for step in result_of(record)["steps"]:
        step["sequence_index"] = step["span"] = None
        step["completion"]["token_ids"] = step["completion"]["logprobs"] = None
    return [("group-record-mismatch", RECORD_ROW, None)]


def retokenized_in_the_record(record):
    span = result_of(record)["sequences"][0]["spans"][0]
    span["provenance"] = "retokenized"
    return [("retokenized-with-logprobs", RECORD_ROW, span["start"])]


def span_too_short(record):
    span = result_of(record)["sequences"][0]["spans"][1]
    span["end"] -= 1
    return [("span-mismatch", RECORD_ROW, span["end"])]


def broken_history(record):
    sequences = result_of(record)["sequences"]
    sequences.append(copy.deepcopy(sequences[0]))
    return [("prefix-break", RECORD_ROW, None)]


def no_group_of_rows(record):
    record["group"] = {"tokens": 5}
    record["rollouts"] = []
    return [("record-malformed", None, None)]


def doubled_end_of_turn_in_a_failed_rollout(record):
    """It is in no group; its sequence is checked all the same."""
    del record["group"]
    del record["rollouts"][0]["traces"][0]["score"]
    sequence = result_of(record, 0)["sequences"][0]
    start, _ = sequence["own_mask"][0]
    sequence["own_ids"][start - 5 : start - 3] = [STOP, STOP]
    record["rollouts"] = [record["rollouts"][0]]
    return [("end-of-turn-doubled", 0, start - 4)]


RECORD_PLANTS = (
    newer_schema,
    unreadable_rollout,
    another_score,
    another_mask,
    other_tokens,
    a_row_of_no_rollout,
    retokenized_in_the_record,
    span_too_short,
    broken_history,
    no_group_of_rows,
    doubled_end_of_turn_in_a_failed_rollout,
)


@pytest.mark.parametrize("plant", RECORD_PLANTS)
def test_a_defect_of_our_own_record_is_found_where_it_is_and_nothing_else(plant, records, tmp_path):
    lines = copy.deepcopy(records)
    expected = plant(lines[HOST])
    found = found_in(tmp_path / "groups.jsonl", lines)
    assert sorted(found, key=str) == sorted(((HOST + 1, *place) for place in expected), key=str)


@pytest.mark.parametrize("plant", [retokenized_in_the_record, span_too_short, broken_history])
def test_a_defect_of_a_record_without_a_stored_group_is_found(plant, records, tmp_path):
    lines = [{key: value for key, value in line.items() if key != "group"} for line in copy.deepcopy(records)]
    (expected,) = plant(lines[HOST])
    assert (HOST + 1, *expected) in found_in(tmp_path / "groups.jsonl", lines)


def test_a_group_recorded_twice_is_found_with_all_its_trajectories(records, tmp_path):
    found = found_in(tmp_path / "groups.jsonl", [*records, records[2]])
    assert {code for _, code, _, _ in found} == {"repeated-group", "duplicate-in-file"}
    assert {line for line, *_ in found} == {GROUPS + 1}


BAD_LINES = [
    ("nonsense", "unreadable-line"),
    ('{"tokens": [[1]', "unreadable-line"),
    ("[1, 2]", "unreadable-line"),
    ("[" * 100_000, "unreadable-line"),
    ("\ufffd", "unreadable-line"),
    ('{"prompt": "p", "completion": "c"}', "unknown-shape"),
    ('{"tokens": 5}', "unknown-shape"),
]


@pytest.mark.parametrize(("line", "code"), BAD_LINES)
def test_a_line_that_is_no_trajectory_is_named_and_the_rest_is_read(line, code, records, tmp_path):
    groups = [record["group"] for record in records]
    found = found_in(tmp_path / "groups.jsonl", [*groups[:2], line, *groups[2:]])
    assert found == [(3, code, None, None)]


def test_a_torn_last_line_is_told_apart_from_one_that_only_lacks_its_newline(records, tmp_path):
    path = tmp_path / "groups.jsonl"
    whole = "\n".join(json.dumps(record) for record in records)
    path.write_text(whole)
    assert list(Linter(Source(path, Vocabulary.of(RENDERER))).run()) == []
    path.write_text(whole[:-100])
    (found,) = Linter(Source(path, Vocabulary.of(RENDERER))).run()
    assert (found.code, found.line) == ("torn-line", GROUPS)


def test_a_line_may_hold_one_trajectory(records, tmp_path):
    group = copy.deepcopy(records[HOST]["group"])
    lines = [
        {"tokens": ids, "masks": masks, "scores": 0.5, "logprobs": logprobs}
        for ids, masks, logprobs in zip(
            group["tokens"], group["masks"], group["inference_logprobs"], strict=True
        )
    ]
    assert found_in(tmp_path / "a.jsonl", lines) == []
    lines[ROW]["logprobs"][-1] = 0.5
    lines[ROW + 1]["scores"] = None
    end = len(lines[ROW]["tokens"]) - 1
    assert found_in(tmp_path / "a.jsonl", lines) == [
        (ROW + 1, "logprob-positive", 0, end),
        (ROW + 2, "columns-differ", None, None),
    ]


def test_without_a_tokenizer_the_end_of_a_turn_is_learnt_from_our_record(records, tmp_path):
    lines = copy.deepcopy(records)
    expected = PLANTS["doubled_end_of_turn"](lines[HOST]["group"])
    found = found_in(tmp_path / "groups.jsonl", lines, Vocabulary())
    assert (HOST + 1, *expected[0]) in found
    bare = [record["group"] for record in lines]
    assert found_in(tmp_path / "bare.jsonl", bare, Vocabulary()) == []


def test_every_kind_of_finding_is_planted_somewhere(records):
    planted = {code for plant in PLANTS.values() for code, *_ in plant(copy.deepcopy(records[HOST]["group"]))}
    planted |= {code for plant in RECORD_PLANTS for code, *_ in plant(copy.deepcopy(records[HOST]))}
    planted |= {code for _, code in BAD_LINES}
    assert set(CODES) - planted == {"repeated-group", "duplicate-in-file", "torn-line"}  # tested by name


KEYS = st.sampled_from(
    [
        *ROW_COLUMNS,
        "advantages",
        "logprobs",
        "schema",
        "rollouts",
        "rollout",
        "group",
        "item_id",
        "repetition",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_no_object_of_anyone_breaks_the_linter(value):
    with tempfile.TemporaryDirectory() as folder:
        for _, code, _, _ in found_in(Path(folder) / "any.jsonl", [value]):
            assert code in CODES
