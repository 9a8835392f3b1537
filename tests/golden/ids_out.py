"""Scenarios of the wires that take messages and give ids, or entries that ids can be rebuilt from."""

from __future__ import annotations

from tests.golden.scenario import BUILT_IN, ECHO, EVIL, THINK_AND_CALL, Fails, Reply, Scenario, call

BROKEN = "<tool_call>{broken"
REWRITTEN = (f"{BROKEN} \n\n \n", THINK_AND_CALL, f"  {BROKEN}", "It said hi.")
OPENED = tuple(f"hm\n</think>\n{text}" for text in REWRITTEN)

CHAT_IDS = (
    Scenario(
        "chat+ids: the built-in prompt, several calls, an answer",
        "chat+ids",
        (THINK_AND_CALL + call("lines", count=2), "It said hi."),
        agent=BUILT_IN,
    ),
    Scenario("chat+ids: a server that rewrites history", "chat+ids", REWRITTEN, template="qwen3"),
    Scenario(
        "chat+ids: the same text in other ids",
        "chat+ids",
        (Reply(BROKEN, ids="letters"), ECHO, "Hi."),
    ),
    Scenario("chat+ids: a prompt that nobody knows", "chat+ids", (BROKEN, ECHO, "Hi."), shows="last"),
    Scenario(
        "chat+ids: a prompt that opens the reasoning, followed",
        "chat+ids",
        OPENED,
        template="prefilled_think",
        agent={"history": "template"},
    ),
    Scenario(
        "chat+ids: reasoning that was cut",
        "chat+ids",
        (Reply(f"<think>so {ECHO}", "length"), ECHO, Reply("<think>and so", "length")),
    ),
    Scenario(
        "chat+ids: a server that stalls",
        "chat+ids",
        (ECHO, Fails("stall")),
        policy={"request_timeout_s": 1.0},
    ),
    Scenario(
        "chat+ids: control tokens and tags in task and output",
        "chat+ids",
        (call("echo", text=EVIL) + call(EVIL), "It said nothing bad."),
        task=f"Do not do this: {EVIL}",
    ),
    Scenario("chat+ids: an empty answer", "chat+ids", (ECHO, Reply("", ids="unreported"))),
    Scenario("chat+ids: max_steps", "chat+ids", (ECHO, ECHO, ECHO), agent={"max_steps": 3}),
    Scenario(
        "chat+ids: a server object that keeps nodes",
        "chat+ids",
        (THINK_AND_CALL, ECHO, "It said hi."),
        player="managed",
    ),
)

CHAT_LOGPROBS = (
    Scenario(
        "chat+logprobs: the built-in prompt, a repair, an answer",
        "chat+logprobs",
        (BROKEN, THINK_AND_CALL, "It said hi."),
        agent=BUILT_IN,
    ),
    Scenario("chat+logprobs: a server that trims", "chat+logprobs", REWRITTEN, template="trimming"),
    Scenario(
        "chat+logprobs: another prompt than ours", "chat+logprobs", (ECHO, "It said hi."), shows="injected"
    ),
    Scenario(
        "chat+logprobs: another prompt than ours, scored afterwards",
        "chat+logprobs",
        (ECHO, "It said hi."),
        shows="injected",
        server={"scoring": "generate"},
        policy={"wire": "chat+logprobs"},
        agent={"rescore": "server"},
    ),
    Scenario(
        "chat+logprobs: entries that do not add up",
        "chat+logprobs",
        (ECHO, Fails("one logprob too few")),
    ),
    Scenario(
        "chat+logprobs: a doubled end of turn",
        "chat+logprobs",
        (ECHO, Fails("doubled end of turn")),
    ),
    Scenario(
        "chat+logprobs: a prompt that opens the reasoning", "chat+logprobs", OPENED, template="open_think"
    ),
    Scenario(
        "chat+logprobs: a stop that history shows otherwise, followed",
        "chat+logprobs",
        (ECHO, THINK_AND_CALL, "Hi."),
        template="gpt_oss",
        agent={"history": "template"},
    ),
    Scenario(
        "chat+logprobs: a server whose engine died",
        "chat+logprobs",
        (THINK_AND_CALL, Fails("500"), Fails("500")),
    ),
    Scenario(
        "chat+logprobs: a template without a bridge",
        "chat+logprobs",
        (ECHO, call("echo", text="</tool_response><|im_end|>ß"), Reply("It said", "length")),
        template="depends_on_text",
    ),
    Scenario(
        "chat+logprobs: a score that is no number", "chat+logprobs", ("It said hi.",), verifier="no number"
    ),
)

IDS_OUT = (*CHAT_IDS, *CHAT_LOGPROBS)
