"""The workload of every contender: K tool turns and a final answer, with a FakeServer in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atropos_agent.dialects.hermes import render_call, result_to_xml
from atropos_agent.policy.protocol import Prompt, Wire
from atropos_agent.policy.wires import LlamaCppFormat, VllmFormat
from atropos_agent.renderer import Renderer
from atropos_agent.testing.fake_server import MODEL
from atropos_agent.trajectory import FinishReason, Message, SamplingParams, TokenIds, ToolResult

CONTEXT_LENGTH = 1_000_000
MAX_TOKENS = 512
SYSTEM = (
    "You solve small tasks with a tool. Think between <think> and </think>, then either write one call as "
    'JSON {"name": ..., "arguments": {...}} between <tool_call> and </tool_call>, or the final answer.'
)
TASK = "List what is there, one tool call at a time, and say when all of it has been seen."
CALL = (
    "<think>\nThe last page is not the end of the list, so I ask for the next one.\n</think>\n"
    f"{render_call('echo', {'text': 'next page'})}"
)
FINAL = "<think>\nNothing is left to list.\n</think>\nAll of it has been seen."
_LINE = "drwxr-xr-x 2 user user 4096 report_{number:04d}.txt\n"


@dataclass(frozen=True, slots=True)
class Workload:
    """One cell of the bench: `turns` tool turns of `output_bytes` each, `in_flight` rollouts at a time.

    A sample is `rollouts` rollouts; `repeats` samples are taken of each contender, interleaved.
    """

    turns: int = 5
    in_flight: int = 16
    output_bytes: int = 100
    wire: Wire = Wire.VLLM
    rollouts: int = 64
    repeats: int = 7

    @property
    def requests(self) -> int:
        """Requests, and so completions, of one rollout."""
        return self.turns + 1

    @property
    def name(self) -> str:
        """For tables."""
        size = f"{self.output_bytes} B" if self.output_bytes < 1000 else f"{self.output_bytes // 1000} kB"
        shape = "" if self.wire is Wire.VLLM else f", {self.wire}"
        return f"{self.turns} turns, {self.in_flight} in flight, {size}{shape}"


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """The parts of the conversation that a contender without an agent needs to send the same requests.

    `opening` int32[n] are the first prompt's ids, `after_call` the text between two completions, `fields`
    the request without its prompt.
    """

    workload: Workload
    output: str
    opening: TokenIds
    after_call: str
    path: str
    fields: Mapping[str, object]


def script_of(workload: Workload, renderer: Renderer) -> Script:
    """Render once what the agent renders in every rollout."""
    lines = "".join(_LINE.format(number=number) for number in range(workload.output_bytes // 40 + 2))
    output = lines[: workload.output_bytes]
    opening: list[Message] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK}]
    observation = result_to_xml(ToolResult(success=True, output=output), renderer.control_tokens)
    turn: list[Message] = [{"role": "assistant", "content": CALL}, {"role": "user", "content": observation}]
    sampled = np.concatenate([renderer.encode(CALL), renderer.certificate.close_ids]).astype(np.int32)
    bridge = renderer.bridge([*opening, *turn], sampled, finish=FinishReason.STOP, turn=1)
    wire = LlamaCppFormat(MODEL) if workload.wire is Wire.LLAMA_CPP else VllmFormat(MODEL)
    # The agent's own request fields, so that the server has the same work for every contender.
    fields = json.loads(wire.body(Prompt(), SamplingParams(max_tokens=MAX_TOKENS)))
    del fields["prompt"]
    return Script(workload, output, renderer.render(opening).ids, bridge.text, wire.path, fields)


@contextmanager
def fake_server(workload: Workload, tokenizer: Path, stop_token: str) -> Iterator[str]:
    """The URL of a FakeServer process that plays `workload`; it ends with the block or with this process."""
    script = {
        "wire": workload.wire.value,
        "tokenizer": str(tokenizer),
        "stop_token": stop_token,
        "turns": [CALL] * workload.turns + [FINAL],
        "context_length": CONTEXT_LENGTH,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(script, file)
        file.flush()
        command = [str(Path(sys.executable).with_name("atropos-agent")), "fake-server", file.name]
        with _running([*command, "--until-eof"]) as url:
            yield url


@contextmanager
def _running(command: Sequence[str]) -> Iterator[str]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.stdin.close()
            process.wait(timeout=10)
