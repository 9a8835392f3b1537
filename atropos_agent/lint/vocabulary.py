"""What is known of the tokenizer that wrote a file: stop ids, size, and text where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.errors import AtroposAgentError
from atropos_agent.lint.rows import Ids
from atropos_agent.policy.embedded import EMBEDDED_MODEL
from atropos_agent.record.manifest import MANIFEST, read_manifest
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import FinishReason, Rollout


@dataclass(slots=True)
class Vocabulary:
    """Knowledge to check against. Without a renderer, `learn` infers the end of a turn from our records.

    `stop_ids` is empty where no single token ends a turn, or it is not known.
    """

    renderer: Renderer | None = None
    stop_ids: frozenset[int] = field(default_factory=frozenset[int])

    @classmethod
    def of(cls, renderer: Renderer) -> Vocabulary:
        """What `renderer` knows. Its end tokens are used if its template ends turns with one."""
        ends_turns = bool(renderer.certificate.stop_ids)
        return cls(renderer, renderer.stop_ids if ends_turns else frozenset())

    def text(self, ids: Ids) -> str | None:
        """The text of `ids` int64[n], special tokens kept; None without a tokenizer."""
        return None if self.renderer is None else self.renderer.decode(ids.astype(np.int32))

    def learn(self, rollouts: Iterable[Rollout]) -> None:
        """Learn the end of a turn: the one id with which all completions of `rollouts` end that ended by
        themselves."""
        if self.renderer is not None or self.stop_ids:
            return
        last = {
            int(step.completion.token_ids[-1])
            for rollout in rollouts
            for trace in rollout.traces
            for step in trace.result.steps
            if step.completion.finish_reason is FinishReason.STOP
            and step.completion.token_ids is not None
            and len(step.completion.token_ids)
        }
        if len(last) == 1:
            self.stop_ids = frozenset(last)


def recorded_renderer(run: Path) -> Renderer | None:
    """The renderer of the policy that `run` names; None if it is not a run or has no tokenizer here."""
    try:
        if not (run / MANIFEST).exists():
            return None
        config = read_manifest(run).get("config")
        policy = config.get("policy") if isinstance(config, dict) else None
        if not isinstance(policy, dict):
            return None
        if policy.get("kind") == "embedded":
            return Renderer.load(EMBEDDED_MODEL, marks=HERMES_MARKS)
        named = policy.get("tokenizer") or policy.get("model")
        return Renderer.load(named, marks=HERMES_MARKS) if isinstance(named, str) else None
    except AtroposAgentError:
        return None
