"""A time limit whose error says what was waited for, and how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from atropos_agent.errors import RequestTimeout

T = TypeVar("T")


async def within(limit_s: float | None, answer: Awaitable[T], what: str) -> T:
    """The answer. Raises RequestTimeout with `what` in its text after `limit_s` seconds (None: no limit)."""
    if limit_s is None:
        return await answer
    try:
        async with asyncio.timeout(limit_s):
            return await answer
    except TimeoutError as error:
        if isinstance(error, RequestTimeout):  # it is a TimeoutError too, of an inner limit: keep its text
            raise
        raise RequestTimeout(f"no answer from {what} within {limit_s:g} s") from None
