"""A template that rewrites history, followed over real llama.cpp: every branch once, as on the wire."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from transformers import AutoTokenizer

from atropos_agent.collect import Collector
from atropos_agent.config import AgentConfig, CollectConfig, SandboxConfig
from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.policy import HttpPolicy
from atropos_agent.policy.embedded import start_embedded_server
from atropos_agent.record.rundir import GroupRecord, RunDir, read_groups
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import BreakKind, Rollout
from atropos_environments.terminal_tasks import TerminalTasks, TerminalTasksConfig
from tests.recording_proxy import Exchange, RecordingProxy
from tests.shipped_model import model_folder

pytestmark = pytest.mark.integration

GROUPS = 4
# Only the last answer is shown as it was written: the line breaks of earlier ones are lost.
LAST_AS_WRITTEN = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for m in messages %}"
    "{%- set kept = m.role != 'assistant' or loop.index0 == ns.last %}"
    "{%- set text = m.content if kept else m.content.replace('\\n', ' ') %}"
    "{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
Sessions: TypeAlias = dict[str, list[Exchange]]
Recorded: TypeAlias = tuple[list[GroupRecord], Sessions, Renderer]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Recorded:
    """Groups as a run directory holds them, and for each rollout the exchanges that the proxy saw."""
    model = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    tokenizer.chat_template = LAST_AS_WRITTEN
    renderer = Renderer(tokenizer, marks=HERMES_MARKS)
    path = tmp_path_factory.mktemp("runs") / "run"
    sessions = asyncio.run(collect(model, renderer, path))
    return list(read_groups(path)), sessions, renderer


async def collect(model: Path, renderer: Renderer, path: Path) -> Sessions:
    server = await start_embedded_server(model / "model.gguf")
    try:
        async with RecordingProxy(server.url) as proxy:
            policy = HttpPolicy(proxy.url)
            async with TerminalTasks(
                policy,
                renderer,
                config=TerminalTasksConfig(prompt="short", group_size=8, on_branch="last"),
                agent=AgentConfig(
                    temperature=1.8, max_steps=8, max_tokens=120, max_repairs=8, history="template"
                ),
                sandbox=SandboxConfig(slots=16),
            ) as env:
                with RunDir.create(path, {}) as log:
                    await Collector(env, log, CollectConfig(groups=GROUPS)).run()
            await policy.aclose()
    finally:
        await server.aclose()
    sessions: Sessions = defaultdict(list)
    for exchange in proxy.exchanges:
        sessions[exchange.session].append(exchange)
    return sessions


def rollouts(recorded: Recorded) -> list[Rollout]:
    return [rollout for group in recorded[0] for rollout in group.rollouts]


def test_the_recorded_prompts_and_ids_are_those_on_the_wire(recorded):
    for rollout in rollouts(recorded):
        exchanges = recorded[1][rollout.id]
        spans = [(data, span) for data in rollout.result.sequences for span in data.spans]
        assert [span.step_number for _, span in spans] == list(range(1, len(exchanges) + 1))
        for (data, span), exchange in zip(spans, exchanges, strict=True):
            assert data.token_ids[: span.start].tolist() == exchange.request["prompt"]
            assert data.token_ids[span.start : span.end].tolist() == exchange.reply["tokens"]


def test_every_branch_is_delivered_and_every_sampled_token_trained_once(recorded):
    for rollout in rollouts(recorded):
        reported = [token for exchange in recorded[1][rollout.id] for token in exchange.reply["tokens"]]
        result = rollout.result
        assert [t for data in result.sequences for t in data.token_ids[data.mask].tolist()] == reported
        assert len(result.breaks) == len(result.sequences) - 1
        assert {found.kind for found in result.breaks} <= {BreakKind.TEMPLATE}
    assert sum(len(rollout.result.sequences) > 2 for rollout in rollouts(recorded)) >= 5


def test_a_sequence_begins_where_the_template_rewrote_an_answer_and_nowhere_else(recorded):
    for rollout in rollouts(recorded):
        texts = [step.assistant_message for step in rollout.result.steps]
        rewritten = [number + 2 for number, text in enumerate(texts[:-2], 1) if "\n" in text]
        assert [found.step_number for found in rollout.result.breaks] == rewritten


def test_each_prompt_is_the_templates_own_rendering(recorded):
    _, _, renderer = recorded
    for rollout in rollouts(recorded):
        if "reasoning_closed" in rollout.result.metadata["notes"]:
            continue  # what was added is in no assistant message
        talk = [*rollout.result.prompt_messages, *rollout.result.to_messages()]
        opening = len(rollout.result.prompt_messages)
        for number, exchange in enumerate(recorded[1][rollout.id]):
            shown = renderer.decode(np.array(exchange.request["prompt"], np.int32))
            assert shown == renderer.text(talk[: opening + 2 * number])


def test_the_row_of_a_rollout_is_its_last_sequence(recorded):
    for record in recorded[0]:
        assert record.group is not None
        last = {rollout.id: rollout.result.sequences[-1].tokens for rollout in record.rollouts}
        for tokens, override in zip(record.group["tokens"], record.group["overrides"], strict=True):
            assert tokens == last[override["managed_metadata"]["rollout_id"]]
