"""Real rollouts with exact tokens, recorded into a run directory: data in which there is nothing to find."""

from __future__ import annotations

from pathlib import Path

from atropos_agent.agent import AtroposAgent
from atropos_agent.dialects.hermes import HERMES_MARKS, render_call
from atropos_agent.export import scored_group
from atropos_agent.policy.embedded import EMBEDDED_MODEL
from atropos_agent.policy.protocol import Wire
from atropos_agent.record.rundir import RunDir
from atropos_agent.renderer import Renderer
from atropos_agent.testing import FakePolicy, FakeReply
from atropos_agent.toolset import ToolRegistry, ToolSchema
from atropos_agent.trajectory import FinishReason, Rollout, RolloutGroup, ToolResult, Trace

GROUP_SIZE = 8


class Echo:
    """Gives back its text."""

    schema = ToolSchema.of("echo", "Echo.", {"text": {"type": "string"}}, ("text",))

    def is_available(self):
        return True, ""

    async def execute(self, arguments, context):
        return ToolResult(success=True, output=arguments["text"])


def shipped_renderer() -> Renderer:
    """The tokenizer that the package ships needs no weights."""
    return Renderer.load(EMBEDDED_MODEL, marks=HERMES_MARKS)


def scripts_of(group: int, index: int) -> list[str | FakeReply]:
    """One to four turns; now and then reasoning, a malformed call, a cut turn in the middle or at the end."""
    word = f"w{group} {index}"
    scripts: list[str | FakeReply] = [
        f"<think>\nturn {turn}\n</think>\n" * (group % 3 == 0)
        + render_call("echo", {"text": f"{word} {turn}"})
        for turn in range((group + index) % 4)
    ]
    if group % 5 == 1:
        scripts.insert(0, f"<tool_call>\n{{bad {word}")
    if group % 5 == 2:
        scripts.insert(0, FakeReply(f'<tool_call>\n{{"name": "{word}', FinishReason.LENGTH))
    cut = group % 7 == 3 and index == 1
    return [*scripts, FakeReply(f"it is {word}", FinishReason.LENGTH) if cut else f"{word} is done."]


async def write_clean_run(
    path: Path,
    groups: int,
    renderer: Renderer,
    *,
    wire: Wire = Wire.IN_PROCESS,
) -> None:
    """`groups` groups of GROUP_SIZE rollouts, rewards mixed, as `collect` records them."""
    (stop_id,) = renderer.certificate.stop_ids
    manifest = {"config": {"policy": {"kind": "embedded"}}, "identity": {}}
    with RunDir.create(path, manifest) as run:
        for number in range(groups):
            rollouts = []
            for index in range(GROUP_SIZE):
                policy = FakePolicy(scripts_of(number, index), renderer, stop_id=stop_id, wire=wire)
                agent = AtroposAgent(policy, ToolRegistry([Echo()]), None, renderer)
                result = await agent.run(f"echo group {number}")
                name = f"item{number}/0/{index}"
                rollouts.append(
                    Rollout(name, f"item{number}", index, (Trace(result, score=float(index % 2)),))
                )
            group = RolloutGroup(f"item{number}", 0, tuple(rollouts))
            run.add_group(group, scored_group(group))
