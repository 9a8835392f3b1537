"""Call code of another library: any exception it raises becomes a ProviderError."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np

from atropos_agent.errors import AtroposAgentError, MalformedReply, ProviderError, is_failure

T = TypeVar("T")


async def foreign(ask: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
    """The answer of `ask`. Raises ProviderError naming `ask` and its exception; a cancellation passes."""
    try:
        return await ask(*arguments, **named)
    except ProviderError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        name = getattr(ask, "__qualname__", ask)
        raise ProviderError(f"{name}: {type(error).__name__}: {error}") from error


async def answered(policy: object, asking: Awaitable[T]) -> T:
    """What `policy` answers. Raises ProviderError for an error of the operating system, `exit()` and a
    CancelledError without a cancellation: each costs one rollout. Other exceptions are bugs and pass."""
    try:
        return await asking
    except (OSError, asyncio.CancelledError, SystemExit) as error:
        if isinstance(error, AtroposAgentError) or not is_failure(error):
            raise
        raise ProviderError(f"{type(policy).__name__}: {type(error).__name__}: {error}") from error


def listed(values: object, where: str) -> list[object]:
    """A list, tuple or array as a list of plain Python values. Raises MalformedReply naming `where`."""
    try:
        plain = np.asarray(values).tolist()
    except (TypeError, ValueError):
        plain = None
    if not isinstance(plain, list):
        raise MalformedReply(f"{where} is {values!r:.80}, not a flat list of numbers")
    return plain
