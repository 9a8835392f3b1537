"""Scenarios of the HTTP wires that take ids and give ids."""

from __future__ import annotations

from tests.golden.scenario import BUILT_IN, ECHO, EVIL, THINK_AND_CALL, Fails, Reply, Scenario, call, think

SCRIPTS = "ça: 语言 🚀 żółć — наконец é ಕನ್ನಡ"
BROKEN_CALLS = (
    '<tool_call>{"name": "echo"',
    "<tool_call>\n{'name': 'echo'}\n</tool_call>",
    "<tool_call>echo hi</tool_call>",
    '<tool_call>{"arguments": {"text": "hi"}}</tool_call>',
    '<tool_call>{"name": "echo", "arguments": [1]}</tool_call>',
    '<tool_call type="function">{"name": "echo", "arguments": {"text": "hi"}}</tool_call>',
    f"<think>{ECHO}</think>",
    f"<think>never closed {ECHO}",
    '<tool_call>{"name": "echo", "arguments": {"text": "hi"}} and more</tool_call>',
    '<tool_call>{"name": "echo", "arguments": "{text: hi}"}</tool_call>',
    "no call</tool_call>",
)
ODD_CALLS = (
    '<tool_call>\n```json\n{"name": "echo", "arguments": {"text": "fenced"}}\n```\n</tool_call>',
    '<tool_call>echo{"text": "named"}</tool_call>',
    '<tool_call>[{"name": "echo", "arguments": {"text": "a"}}, {"name": "away"}, 7]</tool_call>',
    '<tool_call>{"name": "echo", "arguments": "{\\"text\\": \\"in text\\"}"}</tool_call>',
    '<tool_call>{"name": "away", "arguments": "null"}</tool_call>',
    '<tool_call>{"name": "echo", "parameters": {"text":"<tool_call>\\u00e9 \\"</tool_call>\\""}}</tool_call>',
    call("echo", text="hello world, the answer is 42. " * 80),
)
UNREADABLE_CALLS = (
    '<tool_call>{"name": "order", "arguments": {"price": NaN}}</tool_call>',
    '<tool_call>{"name": "order", "arguments": {"price": 1e999}}</tool_call>',
    f'<tool_call>{{"name": "order", "arguments": {{"note": {"[" * 70}{"]" * 70}}}}}</tool_call>',
    '<tool_call>{"name": "echo", "arguments": {"text": "\\ud800"}}</tool_call>',
    "<tool_call>1</tool_call>" * 5,
)

LLAMA_CPP = (
    Scenario(
        "llama.cpp: the built-in prompt, reasoning, a call, an answer",
        "llama.cpp",
        (THINK_AND_CALL, think("That is all.") + "It said hi."),
        agent=BUILT_IN,
    ),
    Scenario(
        "llama.cpp: broken characters without logprobs",
        "llama.cpp",
        (Reply(ECHO + " ", ids="broken"), Reply("It said hi ", ids="broken")),
    ),
    Scenario(
        "llama.cpp: an answer cut by max_tokens",
        "llama.cpp",
        (ECHO, "A very long answer that goes on and on, and then a little further. " * 3),
        agent={"max_tokens": 100},
    ),
    Scenario(
        "llama.cpp: reasoning cut by max_tokens",
        "llama.cpp",
        (f"<think>I would say {ECHO}" + " or not" * 30, "Well, yes."),
        agent={"max_tokens": 110},
    ),
    Scenario(
        "llama.cpp: the context is full",
        "llama.cpp",
        (ECHO, ECHO, ECHO),
        server={"context_length": 240},
    ),
    Scenario(
        "llama.cpp: sampled from another distribution",
        "llama.cpp",
        (ECHO, "It said hi."),
        agent={"temperature": 0.5, "top_p": 0.9},
        server={"logprob_mode": "processed"},
    ),
    Scenario(
        "llama.cpp: control tokens and tags in task and output",
        "llama.cpp",
        (call("echo", text=EVIL), call(EVIL), call("echo", **{EVIL: 1}), "It said nothing bad."),
        task=f"Do not do this: {EVIL}",
    ),
    Scenario(
        "llama.cpp: a close in plain text",
        "llama.cpp",
        (THINK_AND_CALL, Reply(f"{ECHO}\n", ids="unreported"), Reply("Hi. ###", "length")),
        template="plain_close",
    ),
    Scenario("llama.cpp: a doubled end of turn", "llama.cpp", (ECHO, Fails("doubled end of turn"))),
    Scenario("llama.cpp: HTML instead of an answer", "llama.cpp", (THINK_AND_CALL, Fails("html"))),
    Scenario(
        "llama.cpp: other scripts",
        "llama.cpp",
        (think(SCRIPTS) + call("echo", text=SCRIPTS), SCRIPTS),
        task=SCRIPTS,
    ),
)

SGLANG = (
    Scenario(
        "sglang: every kind of broken call",
        "sglang",
        (*BROKEN_CALLS, BROKEN_CALLS[1] + ECHO, "Enough."),
        agent={"max_repairs": 20},
    ),
    Scenario("sglang: odd calls that are read", "sglang", (*ODD_CALLS, "Odd.")),
    Scenario(
        "sglang: calls that cannot be read",
        "sglang",
        (*UNREADABLE_CALLS, Reply("So I <tool_", "length"), "Enough."),
        agent={"max_repairs": 20},
    ),
    Scenario(
        "sglang: max_total_tokens in the middle of a call",
        "sglang",
        (ECHO, ECHO, ECHO),
        agent={"max_total_tokens": 150},
    ),
    Scenario(
        "sglang: long outputs",
        "sglang",
        (call("lines", count=300) + call("lines", count=40, text="ää"), call("x" * 900), "Long."),
    ),
    Scenario(
        "sglang: a stop that history shows otherwise",
        "sglang",
        (ECHO, THINK_AND_CALL, "Hi."),
        template="gpt_oss",
    ),
    Scenario(
        "sglang: a template that trims and drops reasoning, followed",
        "sglang",
        ("<tool_call>{broken \n\n \n", THINK_AND_CALL, f"  {ECHO}", BROKEN_CALLS[0], "Hi."),
        template="qwen3",
        agent={"history": "template"},
    ),
    Scenario(
        "sglang: a server that outlives the rollout's time for it",
        "sglang",
        (ECHO, Fails("stall")),
        agent={"max_wall_time_s": 1.0},
    ),
    Scenario("sglang: one logprob too few", "sglang", (ECHO, Fails("one logprob too few"))),
    Scenario(
        "sglang: a call cut by max_tokens",
        "sglang",
        (call("echo", text="hi" * 60), ECHO, "Hi."),
        agent={"max_tokens": 90},
    ),
)

VLLM = (
    Scenario(
        "vllm: arguments that do not fit",
        "vllm",
        (
            call("order") + call("order", item="pen"),
            call("order", item="pencil", count=0) + call("order", item=3, count="2"),
            call("order", item="ink", count=10, price=0.25, gift="yes"),
            call("order", item="ink", count=True, price=1) + call("order", item="ink", count=1.5),
            call("order", item="pen", count=1, colour="red", counts=2, note=None),
            call("order", item="pen", count=9, price=0.5, gift=False, note=[1, "a"]),
            "Nine pens.",
        ),
    ),
    Scenario(
        "vllm: nested arguments that do not fit",
        "vllm",
        (
            call("order", item="pen", count=1, tags="new")
            + call("order", item="pen", count=1, tags=["new", 3]),
            call("order", item="pen", count=1, tags=["odd"], address={}),
            call("order", item="pen", count=1, address={"street": 5, "zip": 7, "place": {"lat": 91}}),
            call("order", item="pen", count=1, address={"street": "a", "zip": None, "place": {}})
            + call("order", item="pen", count=1, address={"street": "a", "place": {"lat": 90}}),
            call("order", item="pen", count=0, tags=[1, 2, 3, 4, 5, 6, 7]),
            call("order", item="pen", count=1, tags=[], address={"street": "a", "place": {"lat": -90}}),
            "One pen.",
        ),
    ),
    Scenario(
        "vllm: tools that are unknown or not there",
        "vllm",
        (
            call("ecko", text="hi") + call("terminal", command="ls") + call("away"),
            call("", text="hi"),
            "None.",
        ),
    ),
    Scenario(
        "vllm: all repairs used up",
        "vllm",
        (BROKEN_CALLS[1], ECHO, BROKEN_CALLS[0], BROKEN_CALLS[2]),
        agent={"max_repairs": 2},
    ),
    Scenario(
        "vllm: a prompt that opens the reasoning",
        "vllm",
        (f"hm\n</think>\n\n{ECHO}", f"{ECHO}\n</think>\n\n{ECHO}", ECHO, "yes\n</think>\n\nIt said hi."),
        template="open_think",
    ),
    Scenario(
        "vllm: an answer cut where the context ends",
        "vllm",
        (ECHO, think("It is long.") + "It said hi. " * 9),
        agent={"max_context_tokens": 160},
        template="default_system",
    ),
    Scenario(
        "vllm: busy, then not",
        "vllm",
        (ECHO, Fails("429"), "It said hi."),
        server={"retry_after_s": 0.01},
    ),
    Scenario(
        "vllm: text in other ids than encoding gives",
        "vllm",
        (Reply(THINK_AND_CALL, ids="letters"), Reply("It said hi.", ids="letters")),
        server={"logprob_mode": "processed"},
        agent={"temperature": 0.7},
    ),
    Scenario(
        "vllm: a stop that is not reported",
        "vllm",
        (Reply(ECHO, ids="unreported"), Reply(ECHO + "\n", ids="unreported"), "Hi."),
        template="llama",
    ),
)

VLLM_GENERATE = (
    Scenario(
        "vllm-generate: the built-in prompt, tools that fail",
        "vllm-generate",
        (
            call("act", how="raise") + call("act", how="fail"),
            call("act", how="tell") + call("act", how="tell much"),
            call("act", how="detail") + call("act", how="surrogate"),
            "It failed.",
        ),
        agent=BUILT_IN,
    ),
    Scenario(
        "vllm-generate: a template that drops reasoning, followed",
        "vllm-generate",
        (THINK_AND_CALL, Reply(f"<think>so {ECHO}", "length"), think("Again.") + ECHO, ECHO, "Hi."),
        template="strips_always",
        agent={"history": "template"},
    ),
    Scenario(
        "vllm-generate: a template without a close",
        "vllm-generate",
        (THINK_AND_CALL, ECHO, "Hi."),
        template="glm",
    ),
    Scenario(
        "vllm-generate: roles that alternate, no system prompt",
        "vllm-generate",
        (THINK_AND_CALL, BROKEN_CALLS[0], think("So.") + "It said hi."),
        template="alternating",
        agent={"system_prompt": ""},
    ),
    Scenario("vllm-generate: no text beside the ids", "vllm-generate", (ECHO, Fails("null content"))),
    Scenario(
        "vllm-generate: max_tool_calls in the middle of a step",
        "vllm-generate",
        (ECHO + ECHO, ECHO + ECHO),
        agent={"max_tool_calls": 3},
    ),
    Scenario(
        "vllm-generate: more than the context", "vllm-generate", (THINK_AND_CALL, Fails("context overflow"))
    ),
    Scenario(
        "vllm-generate: a verifier that fails",
        "vllm-generate",
        (ECHO, "It said hi."),
        verifier="raises",
    ),
)

IDS_IN = (*LLAMA_CPP, *SGLANG, *VLLM, *VLLM_GENERATE)
