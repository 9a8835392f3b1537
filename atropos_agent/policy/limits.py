"""A time limit with words: what was waited for, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from atropos_agent.errors import RequestTimeout

T = TypeVar("T")


async def within(limit_s: float | None, answer: Awaitable[T], what: str) -> T:
    """The answer, or RequestTimeout naming `what` after `limit_s` seconds (None: no limit)."""
    if limit_s is None:
        return await answer
    try:
        async with asyncio.timeout(limit_s):
            return await answer
    except TimeoutError as error:
        if isinstance(error, RequestTimeout):
            raise
        raise RequestTimeout(f"no answer from {what} within {limit_s:g} s") from None
