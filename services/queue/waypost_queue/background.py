"""Ending tasks for certain.

Until Python 3.12 `asyncio.wait_for` drops a cancellation that meets the result it waits for (python/cpython#86296); so
whoever ends a task asks again until it has ended.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

ASK_AGAIN = 0.2  # s


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and returns once all have ended; their results and exceptions are dropped."""
    every = set(tasks)
    pending = every
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=ASK_AGAIN)
    for task in every:
        if not task.cancelled():
            task.exception()
