"""The in-flight table: what is in it, and in which phase."""

import pytest

from atropos_agent.telemetry import Entry, Kind, Phase, lines, table


def test_an_entry_is_in_the_table_for_the_length_of_its_block():
    with Entry(Kind.TOOL, "terminal", owner="item/1#0.3", step=2, detail={"command": "ls"}) as entry:
        assert table() == [entry]
        (line,) = lines(table())
    assert "tool call terminal step 2 of item/1#0.3: executing for" in line
    assert "{'command': 'ls'}" in line
    assert table() == []


def test_an_entry_leaves_the_table_when_its_block_fails():
    with pytest.raises(ZeroDivisionError), Entry(Kind.SCORER, "item"):
        _ = 1 / 0
    assert table() == []


def test_attempts_to_connect_count_from_the_first_that_failed():
    entry = Entry(Kind.REQUEST, "http://host", phase=Phase.CONNECTING)
    began = entry.phase_since
    entry.again(2, "refused")
    entry.enter(Phase.CONNECTING)
    assert (entry.phase_since, entry.attempt, entry.unreached) == (began, 2, True)
    entry.enter(Phase.WAITING)
    assert not entry.unreached
    assert entry.phase_since > began


def test_an_attempt_after_an_answer_is_no_attempt_to_reach_the_server():
    entry = Entry(Kind.REQUEST, "http://host", phase=Phase.READING)
    entry.read(10)
    entry.again(2, "status 503")
    assert (entry.unreached, entry.bytes_read, entry.phase) == (False, 0, Phase.BACKING_OFF)
