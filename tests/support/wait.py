"""Waiting for what another process does: the only place in the tests that polls."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(predicate: Callable[[], T | Awaitable[T]], timeout: float = 10.0, what: str = "") -> T:
    """The first true value of `predicate` (plain or async), asked every 10 ms; AssertionError after `timeout` seconds.

    For what happens in another process only: within this one, wait for the event itself.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or inspect.getsource(predicate).strip()}: not within {timeout:g} s")
        await asyncio.sleep(0.01)
