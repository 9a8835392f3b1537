"""Calling somebody else's engine: whatever it raises becomes a ProviderError with words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from atropos_agent.errors import ProviderError

T = TypeVar("T")


async def foreign(ask: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
    """The answer of `ask`. Raises ProviderError naming the function and what it raised; a cancel passes."""
    try:
        return await ask(*arguments, **named)
    except ProviderError:
        raise
    except Exception as error:
        name = getattr(ask, "__qualname__", ask)
        raise ProviderError(f"{name}: {type(error).__name__}: {error}") from error
