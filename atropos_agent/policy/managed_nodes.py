"""Find, check and read the sequence nodes of an atroposlib managed session. Refuses placeholder tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from atropos_agent.errors import MalformedReply, ProviderError
from atropos_agent.policy.wires import common
from atropos_agent.trajectory import (
    IGNORED_LOGPROB,
    IGNORED_TOKEN,
    Completion,
    LogprobProvenance,
    Provenance,
)

PLACEHOLDER_LOGPROB = -0.5
"""atroposlib's dummy server returns the ids 0, 1, 2, ... and this logprob for any completion."""


def new_node(before: Sequence[object], after: Sequence[object], text: str) -> object:
    """The node of the last completion: it is new in the state, and its text ends with `text`."""
    known = {id(node) for node in before}
    fresh = [node for node in after if id(node) not in known]
    matching = [node for node in fresh if str(field_of(node, "full_text") or "").endswith(text)]
    if len(matching) != 1 and len(fresh) != 1:
        raise MalformedReply(f"{len(fresh)} new sequences after one completion, {len(matching)} end with it")
    return matching[0] if len(matching) == 1 else fresh[0]


def read_node(node: object, plain: Completion) -> Completion:
    """`plain` with the node's ids: the unmasked tail was sampled, all before it is the prompt.

    Raises ProviderError for placeholder tokens, MalformedReply for inconsistent arrays.
    """
    tokens = common.token_ids(field_of(node, "tokens"), "node.tokens")
    masked = np.array(common.entries(field_of(node, "masked_tokens"), "node.masked_tokens"))
    values = np.array(common.entries(field_of(node, "logprobs"), "node.logprobs"), np.float32)
    _refuse_placeholder(node, tokens, values)
    common.require_count(len(masked), len(tokens), "masked tokens", "tokens")
    common.require_count(len(values), len(tokens), "logprobs", "tokens")
    hidden = np.flatnonzero(masked == IGNORED_TOKEN)
    start = int(hidden[-1]) + 1 if len(hidden) else 0
    if not np.array_equal(masked[start:], tokens[start:]):
        raise MalformedReply("node.masked_tokens differs from node.tokens where it is not masked")
    sampled = values[start:]
    padded = sampled == IGNORED_LOGPROB  # 1.0 stands for a missing logprob in atroposlib; ours is NaN
    common.logprobs(sampled[~padded].tolist(), "node.logprobs")
    return replace(
        plain,
        token_ids=tokens[start:],
        prompt_token_ids=tokens[:start],
        logprobs=np.where(padded, np.float32(np.nan), sampled).astype(np.float32),
        provenance=Provenance.SAMPLED,
        logprob_provenance=LogprobProvenance.SAMPLED,
        usage_prompt_tokens=start,
        usage_completion_tokens=len(tokens) - start,
        notes=(*plain.notes, "logprobs_padded") if padded.any() else plain.notes,
    )


def _refuse_placeholder(node: object, tokens: np.ndarray, values: np.ndarray) -> None:
    metadata = field_of(node, "metadata")
    marked = isinstance(metadata, dict) and bool(metadata.get("dummy_tokens"))
    looks = len(tokens) > 1 and np.array_equal(tokens, np.arange(len(tokens)))
    if marked or (looks and bool(np.isin(values, (PLACEHOLDER_LOGPROB, IGNORED_LOGPROB)).all())):
        raise ProviderError(
            "the managed server returned placeholder tokens: its endpoint gives no token ids. Use one that "
            "does, or set ATROPOS_BYPASS_MANAGED_SERVER=1 to collect without tracking"
        )


def field_of(node: object, name: str) -> object:
    """The value of the key or attribute `name`; None if there is none."""
    return node.get(name) if isinstance(node, dict) else getattr(node, name, None)
