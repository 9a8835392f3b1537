from dataclasses import FrozenInstanceError, replace

import pytest

from atropos_agent.errors import ToolError
from atropos_agent.toolset import ToolContext
from atropos_agent.trajectory import AgentResult, StopReason, Trace

TRACE = Trace(AgentResult(True, "", StopReason.FINAL_ANSWER), name="helper")


def test_activity_of_a_call_without_a_run_goes_nowhere():
    ToolContext().emit({"line": 1})


def test_a_trace_without_a_rollout_to_collect_it_is_an_error_that_names_it():
    with pytest.raises(ToolError, match=r"'helper'.*no rollout collects"):
        ToolContext().add_trace(TRACE)


def test_a_call_has_its_own_context_and_shares_what_the_rollout_keeps():
    traces: list[Trace] = []
    deps = object()
    context = ToolContext(rollout_id="r", add_trace=traces.append, deps=deps)
    own = replace(context, call_id="1.2", deadline=9.0)
    own.add_trace(TRACE)
    assert traces == [TRACE]
    assert (own.call_id, own.deadline, own.deps) == ("1.2", 9.0, deps)
    assert (context.call_id, context.deadline) == ("", None)
    assert own.sessions is context.sessions
    assert own.jobs is context.jobs
    with pytest.raises(FrozenInstanceError):
        context.call_id = "1.3"  # type: ignore[misc]
