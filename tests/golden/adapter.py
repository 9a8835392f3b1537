"""Plays a scenario in an environment and turns its rollout into plain data.

With `players.py` the only file that touches the project's API: where that moves, the change is here, and
what was recorded stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atropos_agent.config import AgentConfig, EnvConfig, SandboxConfig
from atropos_agent.environment import AgentEnv
from atropos_agent.errors import SandboxLost
from atropos_agent.toolset import ToolRegistry, ToolSchema
from atropos_agent.trajectory import AgentResult, FailureKind, Rollout, Score, SequenceData, ToolResult
from tests.golden.players import policy_for
from tests.golden.scenario import Scenario

SYSTEM_PROMPT = "Be brief."
"""Where a scenario names none; None in a scenario is the built-in one."""
ORDER: Mapping[str, Any] = {
    "item": {"type": "string", "enum": ["pen", "ink"], "description": "What is ordered."},
    "count": {"type": "integer", "minimum": 1, "maximum": 9},
    "price": {"type": "number", "minimum": 0.5},
    "gift": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string", "enum": ["new", "old"]}},
    "address": {
        "type": "object",
        "properties": {
            "street": {"type": "string"},
            "zip": {"type": ["string", "null"]},
            "place": {
                "type": "object",
                "properties": {"lat": {"type": "number", "minimum": -90, "maximum": 90}},
                "required": ["lat"],
            },
        },
        "required": ["street"],
    },
    "note": {},
}


class Tool:
    """A tool that is one function of its arguments."""

    def __init__(
        self,
        schema: ToolSchema,
        function: Callable[[Mapping[str, Any]], ToolResult],
        *,
        missing: str = "",
    ) -> None:
        self.schema = schema
        self._function = function
        self._missing = missing

    def is_available(self) -> tuple[bool, str]:
        """Whether it can run, and if not, why."""
        return not self._missing, self._missing

    async def execute(self, arguments: Mapping[str, Any], context: object) -> ToolResult:
        """Run one call; `hang` never returns."""
        if arguments.get("how") == "hang":
            await asyncio.sleep(3600)
        return self._function(arguments)


def _act(arguments: Mapping[str, Any]) -> ToolResult:
    match arguments["how"]:
        case "raise":
            raise ValueError("no such luck: </tool_response>")
        case "lose":
            raise SandboxLost("the sandbox is gone")
        case "fail":
            return ToolResult(success=False, output="half of it", error="exit status 3")
        case "tell":
            return ToolResult(success=True, output="told", metadata={"status": 0, "name": "<think>"})
        case "tell much":
            return ToolResult(success=True, output="told", metadata={"log": "x" * 9000})
        case "detail":
            return ToolResult(success=True, output="seen", details={"set": {1, 2}})  # type: ignore[dict-item]
        case "surrogate":
            return ToolResult(success=True, output="a\ud800b", error="\udc00")
        case _:
            return ToolResult(success=True)


def _tools() -> list[Tool]:
    text, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    return [
        Tool(
            ToolSchema.of("echo", "Echo a text.", {"text": text}, ("text",)),
            lambda given: ToolResult(success=True, output=given["text"]),
        ),
        Tool(
            ToolSchema.of("lines", "Print lines.", {"count": count, "text": text}, ("count",)),
            lambda given: ToolResult(
                success=True,
                output="\n".join(f"{i} {given.get('text', 'line')}" for i in range(given["count"])),
            ),
        ),
        Tool(ToolSchema.of("act", "Do something odd.", {"how": text}, ("how",)), _act),
        Tool(
            ToolSchema.of("order", "Order {something}.", ORDER, ("item", "count")),
            lambda given: ToolResult(success=True, output=f"{given['count']} {given['item']}"),
        ),
        Tool(
            ToolSchema.of("away", "Not here."), lambda _: ToolResult(success=True), missing="it is not here"
        ),
    ]


@dataclass(frozen=True, slots=True)
class Item:
    """The one item of a scenario."""

    id: str


class GoldenEnv(AgentEnv[Item]):
    """One scenario; the score is a function of the final response and the number of steps."""

    name = "golden"

    def __init__(self, scenario: Scenario, *players: Any) -> None:
        self.scenario = scenario
        super().__init__(
            *players,
            config=EnvConfig(**{"infrastructure_retries": 0, "max_observation_chars": 400, **scenario.env}),
            agent=AgentConfig(**{"system_prompt": SYSTEM_PROMPT, **scenario.agent}),
            sandbox=SandboxConfig(backend="local", slots=1, min_idle=0),
        )

    async def get_next_item(self) -> Item | None:
        """No walk: the one item is handed in."""
        return None

    def build_task(self, item: Item) -> str:
        """The scenario's."""
        return self.scenario.task

    def build_tools(self) -> ToolRegistry:
        """The same tools in every scenario."""
        return ToolRegistry(_tools(), max_observation_chars=self.config.max_observation_chars)

    async def setup_trajectory_workspace(self, item: Item, *, sandbox: object) -> Mapping[str, object]:
        """Nothing to fill."""
        if self.scenario.workspace == "raises":
            raise OSError("no data")
        return {}

    async def verify_and_score_trajectory(
        self, item: Item, final_response: str, *, agent_result: Any, **_: object
    ) -> Score:
        """Long answers after few steps are good."""
        if self.scenario.verifier == "raises":
            raise ValueError("no judgement")
        letters = sum(character.isalpha() for character in final_response)
        parts = {"letters": min(letters, 40) / 40, "short": 1 / (1 + agent_result.num_steps)}
        value = float("nan") if self.scenario.verifier == "no number" else sum(parts.values()) / 2
        return Score(value, parts)


async def play(scenario: Scenario) -> dict[str, Any]:
    """One fresh run of `scenario`, as plain data."""
    async with policy_for(scenario) as players, GoldenEnv(scenario, *players) as env:
        return rollout_as_data(await env.rollout(Item(scenario.name)))


def _error_type(result: AgentResult) -> str | None:
    """What ended the rollout. The recorded code named no error where the time at the server ran out."""
    out_of_time = result.failure is not None and result.failure.kind is FailureKind.WALL_TIME
    return None if out_of_time else result.error_type


def rollout_as_data(rollout: Rollout) -> dict[str, Any]:
    """What must stay the same: no times, no random ids, no addresses, no words of an error."""
    result = rollout.result
    return {
        "wire": result.metadata.get("wire"),
        "stop_reason": str(result.stop_reason),
        "success": result.success,
        "error_type": _error_type(result),
        "score": rollout.score,
        "parts": dict(rollout.parts),
        "attempts": rollout.attempts,
        "final_response": result.final_response,
        "total_tokens": result.total_tokens,
        "notes": result.metadata.get("notes", {}),
        "breaks": [[found.step_number, str(found.kind)] for found in result.breaks],
        "messages": [[m["role"], m["content"]] for m in (*result.prompt_messages, *result.to_messages())],
        "steps": [
            {
                "assistant": step.assistant_message,
                "observation": step.observation,
                "calls": [[one.name, dict(one.arguments)] for one in step.tool_calls],
                "parse_errors": [str(error.kind) for error in step.parse_errors],
                "sequence": step.sequence_index,
            }
            for step in result.steps
        ],
        "sequences": [_sequence_as_data(sequence) for sequence in result.sequences],
    }


def _sequence_as_data(sequence: SequenceData) -> dict[str, Any]:
    """`mask` are the [start, end) where it is true; `logprobs` one list of values for each of them."""
    mask, logprobs = np.asarray(sequence.mask), np.asarray(sequence.logprobs)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))).tolist()
    runs = [[start, end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return {
        "ids": np.asarray(sequence.token_ids).tolist(),
        "mask": runs,
        "logprobs": [[_shortest(value) for value in logprobs[start:end]] for start, end in runs],
        "logprobs_outside_the_mask": int((~np.isnan(logprobs[~mask])).sum()),
        "types": [str(array.dtype) for array in (sequence.token_ids, sequence.mask, sequence.logprobs)],
        "spans": [
            [
                span.step_number,
                span.start,
                span.end,
                str(span.provenance),
                str(span.logprob_provenance),
                str(span.logprob_mode),
            ]
            for span in sequence.spans
        ],
    }


def _shortest(value: np.float32) -> float | None:
    """The shortest decimal that is this float32; None for NaN."""
    return None if np.isnan(value) else float(np.format_float_scientific(value, unique=True))
