"""Rebuilds a conversation from its record: same calls, same order, compared with the recorded ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atropos_agent.agent.conversation import Conversation
from atropos_agent.errors import RecordError
from atropos_agent.trajectory import AgentStep, SequenceData


def replay(conversation: Conversation, steps: Sequence[AgentStep], sequences: Sequence[SequenceData]) -> None:
    """Replay `steps` on an opened `conversation`. `sequences` are the recorded sequences of these steps.

    Raises RecordError if this tokenizer and template give other ids than the recorded ones.
    """
    for step in steps:
        completion = conversation.with_its_prompt(step.completion)
        conversation.add_completion(step.step_number, completion)
        if step.following:
            conversation.add_following(step.following, completion, step.step_number)
    rebuilt = conversation.tracker.sequences()
    _require_equal(rebuilt, sequences)
    if rebuilt:
        # A replay has the logprobs of the completions only; the recorded sequences may be rescored.
        conversation.tracker.adopt(sequences)


def _require_equal(rebuilt: Sequence[SequenceData], recorded: Sequence[SequenceData]) -> None:
    if len(rebuilt) != len(recorded):
        raise RecordError(
            f"the record has {len(recorded)} sequences, this tokenizer and template give {len(rebuilt)}; "
            "resume with those of the recorded run"
        )
    for index, (ours, theirs) in enumerate(zip(rebuilt, recorded, strict=True)):
        if not np.array_equal(ours.token_ids, theirs.token_ids):
            raise RecordError(
                f"sequence {index} of the record has other ids than this tokenizer and template give; "
                "resume with those of the recorded run"
            )
