"""Scripted rollouts over every wire that gives ids are what they were before the redesign."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.golden.adapter import play
from tests.golden.record import as_text, recorded, recorded_text, tokenizer_fingerprint
from tests.golden.scenario import ID_WIRES
from tests.golden.scenarios import SCENARIOS

SHOWN_DIFFERENCES = 8
before = cache(recorded)


def test_every_id_wire_is_there_in_at_least_fifty_scenarios():
    assert len(SCENARIOS) >= 50
    assert {scenario.wire for scenario in SCENARIOS.values()} == set(ID_WIRES)
    assert list(before()["rollouts"]) == list(SCENARIOS)
    for name, rollout in before()["rollouts"].items():
        assert rollout["wire"] == SCENARIOS[name].wire or not rollout["steps"], name


def test_the_tokenizer_is_the_one_of_the_recording():
    assert tokenizer_fingerprint() == before()["tokenizer"], "other ids by another tokenizers release?"


def test_the_file_is_what_the_recorder_writes():
    assert as_text(**before()) == recorded_text()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_rollout_is_what_it_was(name: str):
    fresh, golden = json.loads(json.dumps(await play(SCENARIOS[name]))), before()["rollouts"][name]
    found = list(differences(golden, fresh, ""))
    if found:
        more = f"\n  and {len(found) - SHOWN_DIFFERENCES} more" if len(found) > SHOWN_DIFFERENCES else ""
        pytest.fail(f"{name}:\n  " + "\n  ".join(found[:SHOWN_DIFFERENCES]) + more, pytrace=False)


@pytest.mark.parametrize(
    ("golden", "fresh", "told"),
    [
        ({"a": 1}, {"a": True}, [".a was 1, is True"]),
        ({"a": None}, {"a": 0.0}, [".a was None, is 0.0"]),
        ({"a": 1}, {"b": 1}, [".a is gone", ".b is new"]),
        ([1, 2], [1, 3], ["[1] was 2, is 3"]),
        ([1, 2], [1], [" has 1 entries, had 2", "[1] is gone"]),
        ({"a": [0.1]}, {"a": [0.1, 0.2]}, [".a has 2 entries, had 1", ".a[1] is new"]),
        ([-0.01], [-0.010000001], ["[0] was -0.01, is -0.010000001"]),
        ("<a>xy", "<a>y", [" differs at character 3: was 'xy', is 'y'"]),
        ({"a": [[1, None]]}, {"a": [[1, None]]}, []),
    ],
)
def test_a_difference_is_told_with_its_place(golden: Any, fresh: Any, told: list[str]):
    assert list(differences(golden, fresh, "")) == told


def differences(golden: Any, fresh: Any, place: str) -> Iterator[str]:
    """Where two pieces of plain data differ, each in one line."""
    if isinstance(golden, dict) and isinstance(fresh, dict):
        for key in golden | fresh:
            yield from _of_entry(golden, fresh, key, f"{place}.{key}")
    elif isinstance(golden, list) and isinstance(fresh, list):
        if len(golden) != len(fresh):
            yield f"{place} has {len(fresh)} entries, had {len(golden)}"
        pairs = dict(enumerate(golden)), dict(enumerate(fresh))
        for index in pairs[0] | pairs[1]:
            yield from _of_entry(*pairs, index, f"{place}[{index}]")
    elif isinstance(golden, str) and isinstance(fresh, str) and golden != fresh:
        at = next((i for i, (a, b) in enumerate(zip(golden, fresh, strict=False)) if a != b), 0)
        at = at or min(len(golden), len(fresh)) * golden.startswith(fresh[:1])
        yield f"{place} differs at character {at}: was {golden[at : at + 60]!r}, is {fresh[at : at + 60]!r}"
    elif type(golden) is not type(fresh) or golden != fresh:
        yield f"{place} was {golden!r:.80}, is {fresh!r:.80}"


def _of_entry(golden: dict[Any, Any], fresh: dict[Any, Any], key: Any, place: str) -> Iterator[str]:
    if key not in golden:
        yield f"{place} is new"
    elif key not in fresh:
        yield f"{place} is gone"
    else:
        yield from differences(golden[key], fresh[key], place)
