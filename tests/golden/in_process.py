"""Scenarios of engines and server objects in process, ids in and ids out."""

from __future__ import annotations

from tests.golden.scenario import BUILT_IN, ECHO, THINK_AND_CALL, Fails, Reply, Scenario, call, think

IN_PROCESS = (
    Scenario(
        "in-process: the built-in prompt, several calls in a step, an answer",
        "in-process",
        (THINK_AND_CALL + call("lines", count=3), "Three lines.\n" + ECHO, think("Done.") + "It said hi."),
        player="callable",
        agent=BUILT_IN,
    ),
    Scenario(
        "in-process: no logprobs, and a stop that is not reported",
        "in-process",
        (Reply(ECHO, ids="unreported"), ECHO, Reply("It said hi.", ids="unreported")),
        player="callable",
        logprobs=False,
    ),
    Scenario(
        "in-process: a foreign close",
        "in-process",
        (Reply(ECHO, ids="foreign"), ECHO, Reply(think("Hm.") + "Hi.", ids="foreign")),
        player="callable",
        policy={"logprob_mode": "processed"},
    ),
    Scenario(
        "in-process: an engine that breaks off",
        "in-process",
        (ECHO, Reply("half an ans", "other")),
        player="callable",
    ),
    Scenario(
        "in-process: the sandbox is lost", "in-process", (ECHO, call("act", how="lose") + ECHO), player="fake"
    ),
    Scenario(
        "in-process: the second attempt succeeds",
        "in-process",
        (ECHO, Fails("ServerUnreachable"), think("Again.") + ECHO, "It said hi, at last."),
        player="fake",
        env={"infrastructure_retries": 1},
    ),
    Scenario(
        "in-process: a tool that hangs",
        "in-process",
        (call("act", how="hang") + ECHO, "It hung."),
        player="fake",
        agent={"tool_timeout_s": 0.05},
    ),
    Scenario(
        "in-process: a tool that outlives the rollout's own time",
        "in-process",
        (think("Wait.") + call("act", how="hang"),),
        player="fake",
        agent={"max_wall_time_s": 1.0},
    ),
    Scenario(
        "in-process: a template that branches unseen, append",
        "in-process",
        (ECHO, f"xyzzy {ECHO}"),
        player="fake",
        template="noted",
    ),
    Scenario(
        "in-process: a template that branches unseen, followed",
        "in-process",
        (ECHO, f"xyzzy {ECHO}", "Hi."),
        player="fake",
        template="noted",
        agent={"history": "template"},
    ),
    Scenario(
        "in-process: a server object that gives ids",
        "in-process",
        (THINK_AND_CALL, "It said hi."),
        player="managed",
    ),
    Scenario(
        "in-process: ids outside the vocabulary", "in-process", (ECHO, Reply("?", ids="wild")), player="fake"
    ),
    Scenario(
        "in-process: a workspace that cannot be filled",
        "in-process",
        (),
        player="fake",
        workspace="raises",
    ),
)
