"""Reading the arrays of a completion that must have them."""

from __future__ import annotations

from atropos_agent.trajectory import Completion, Logprobs, TokenIds


def ids_of(completion: Completion) -> TokenIds:
    """Its sampled ids; fails where it has none."""
    assert completion.token_ids is not None
    return completion.token_ids


def prompt_ids_of(completion: Completion) -> TokenIds:
    """The ids of the prompt as the server rendered it."""
    assert completion.prompt_token_ids is not None
    return completion.prompt_token_ids


def logprobs_of(completion: Completion) -> Logprobs:
    """Its logprobs; fails where it has none."""
    assert completion.logprobs is not None
    return completion.logprobs
