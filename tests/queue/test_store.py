"""The connection itself: what its callers rely on."""

import asyncio

import pytest
from nats.aio.msg import Msg

from waypost_queue.store import Store


async def test_a_cancellation_that_meets_the_answer_is_not_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As until Python 3.12 `asyncio.wait_for` drops it: a task that asks in a loop could then never be ended."""
    request = store.nc.request
    asked = asyncio.Event()

    async def dropping(subject: str, payload: bytes, timeout: float, headers: dict[str, str] | None) -> Msg:
        answer = await request(subject, payload, timeout=timeout, headers=headers)
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return answer
        raise AssertionError

    monkeypatch.setattr(store.nc, "request", dropping)
    task = asyncio.create_task(store.api("INFO"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
