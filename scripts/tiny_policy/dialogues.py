"""Training dialogues: reference solutions, really executed, as the agent would record them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from atropos_agent.dialects.hermes import result_to_xml
from atropos_agent.trajectory import Message, ToolResult
from atropos_environments.terminal_tasks.generate import families, generate
from atropos_environments.terminal_tasks.prompts import SHORT_SYSTEM_PROMPT, TERMINAL_SCHEMA_JSON
from atropos_environments.terminal_tasks.task import Task, Turn
from atropos_environments.terminal_tasks.words import LEXICON
from scripts.tiny_policy.workspace import execute, observed, snapshot, workspace

Spoken: TypeAlias = tuple[Message, bool]
"""A message, and whether the policy is trained to say it."""

FIRST_WEIGHTS = {1: 1.0, 2: 1.0, 3: 0.6}
LAST_WEIGHTS = {1: 0.6, 2: 1.0, 3: 1.0, 4: 1.0, 5: 0.7}
"""How often each difficulty is drawn, early and late in training: formats and copying before hard cases."""

FIRST_TRAINING_SEED = 1 << 32
"""Training uses only seeds from here on: no trained dialogue is an item of a quickstart or a measurement."""

_OPENINGS = (
    "You solve tasks with a shell.",
    "You are a helpful assistant with a shell.",
    "You work in /workspace.",
    "Use the tools to do what the user asks.",
    "You are an agent. Do the task with the tools below.",
)
_CLOSINGS = (
    "When the task is done, write the final answer without any call.",
    "Finish with the answer and no call.",
    "Once it is done, reply without a tool call.",
    "",
)
_OTHER_TOOLS = (
    '{"name": "read_file", "description": "Read a file.", "parameters": {"type": "object", "properties": '
    '{"path": {"type": "string"}}, "required": ["path"]}}',
    '{"name": "write_file", "description": "Write a file.", "parameters": {"type": "object", "properties": '
    '{"path": {"type": "string"}, "content": {"type": "string"}}, "required": ["path", "content"]}}',
)


def call_text(turn: Turn) -> str:
    """An assistant turn as the policy should write it."""
    call = json.dumps({"name": "terminal", "arguments": {"command": turn.command}}, ensure_ascii=False)
    think = f"<think>\n{turn.think}\n</think>\n" if turn.think else ""
    return f"{think}<tool_call>\n{call}\n</tool_call>"


def dialogue(task: Task, rng: random.Random, slip_share: float = 0.0) -> list[Spoken]:
    """The task's conversation after the system message, with the real output of each command.

    With probability `slip_share` it begins with a failing command (a wrong name) that is not trained on, so
    that the policy learns to continue after an error. Raises RuntimeError where a reference command fails.
    """
    spoken: list[Spoken] = [({"role": "user", "content": task.prompt}, False)]
    if rng.random() < slip_share:
        spoken += _slip(task, rng)
    with workspace(task) as root:
        for turn in task.solution:
            result = observed(*execute(root, turn.command))
            if not result.success:
                raise RuntimeError(f"{task.id}: {turn.command!r} gave {result.output!r} {result.error!r}")
            spoken += _exchange(turn, result, trained=True)
    return [*spoken, ({"role": "assistant", "content": task.final_response}, True)]


def _exchange(turn: Turn, result: ToolResult, *, trained: bool) -> list[Spoken]:
    said: Message = {"role": "assistant", "content": call_text(turn)}
    return [(said, trained), ({"role": "user", "content": result_to_xml(result)}, False)]


def _slip(task: Task, rng: random.Random) -> list[Spoken]:
    command = task.solution[0].command
    used = sorted({word for path in task.files for word in re.findall("[a-z]{4,}", path) if word in command})
    if not used:
        return []
    wrong = Turn(command.replace(rng.choice(used), rng.choice(LEXICON)))
    with workspace(task) as root:
        # The wrong command must fail and change nothing, else the reference solution no longer fits.
        before = snapshot(root)
        result = observed(*execute(root, wrong.command))
        harmless = not result.success and snapshot(root) == before
    return _exchange(wrong, result, trained=False) if harmless else []


def tasks(seed: int, weights: Mapping[int, float] = FIRST_WEIGHTS) -> Iterator[Task]:
    """An endless stream of training tasks of all families; `weights` says how often each difficulty comes."""
    rng = random.Random(f"training tasks {seed} {sorted(weights.items())}")
    levels, shares = list(weights), list(weights.values())
    while True:
        family, difficulty = rng.choice(families()), rng.choices(levels, shares)[0]
        yield generate(family, difficulty, FIRST_TRAINING_SEED + rng.randrange(1 << 40))


def other_system_prompt(rng: random.Random) -> str:
    """A system prompt in other words, with other tools beside the terminal."""
    tools = [TERMINAL_SCHEMA_JSON, *rng.sample(_OTHER_TOOLS, rng.randint(0, len(_OTHER_TOOLS)))]
    rng.shuffle(tools)
    listed = "\n".join(tools)
    return f"{rng.choice(_OPENINGS)}\n<tools>\n{listed}\n</tools>\n{rng.choice(_CLOSINGS)}".rstrip()


def system_prompts(seed: int, other_share: float = 0.1) -> Iterator[str]:
    """An endless stream of system prompts, one per batch: nearly always the quickstart's own."""
    rng = random.Random(f"system prompts {seed}")
    while True:
        yield other_system_prompt(rng) if rng.random() < other_share else SHORT_SYSTEM_PROMPT
