"""The lease: one holder at a time, through silence, restarts and a holder that is stopped."""

import asyncio

import pytest

from tests.support.nats import LAYOUT, NatsServer, connected
from waypost_queue import lease
from waypost_queue.lease import Lease
from waypost_queue.service import admin
from waypost_queue.store import Store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW", 0.05)
    monkeypatch.setattr(lease, "RETRY", 0.05)
    monkeypatch.setattr(lease, "WRITE", 0.2)
    monkeypatch.setattr(lease, "STEP_DOWN", 0.5)


async def test_only_one_holds_it_and_the_next_has_it_once_it_is_released(store: Store, quick: None) -> None:
    first, second = Lease(store, "queue", "a"), Lease(store, "queue", "b")
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.4)
    assert first.held
    assert not second.held
    await first.release()
    assert not first.held
    await asyncio.wait_for(waiting, 2)
    assert second.held
    assert second.revision > first.revision
    await second.release()


async def test_the_holder_of_a_server_that_fell_silent_steps_down_before_the_key_can_expire(
    nats_server: NatsServer, store: Store, quick: None
) -> None:
    held = Lease(store, "queue", "a")
    await held.acquire()
    nats_server.pause()
    try:
        await asyncio.sleep(0)  # the renewal in flight is never answered
        loop = asyncio.get_running_loop()
        start = loop.time()
        while held.held:  # its own clock ends it, no answer does
            await asyncio.sleep(0.01)
        assert loop.time() - start < 1.0
    finally:
        nats_server.resume()
    await held.release()


async def test_a_restart_of_the_server_ends_it_at_once_and_the_same_holder_may_take_it_again(
    nats_server: NatsServer, store: Store, quick: None
) -> None:
    held = Lease(store, "queue", "a", prepare=lambda: admin.prepare_leases(store, LAYOUT))
    await held.acquire()
    await nats_server.restart()
    await asyncio.wait_for(held.lost.wait(), 5)
    assert not held.held
    await connected(store)
    await asyncio.wait_for(held.acquire(), 5)
    assert held.held
    await held.release()


async def test_it_is_lost_when_another_has_written_the_key(store: Store, quick: None) -> None:
    held = Lease(store, "queue", "a")
    await held.acquire()
    await store.publish("$KV.leases.queue", b"b")
    await asyncio.wait_for(held.lost.wait(), 2)
    assert not held.held
    await held.release()
    last = await store.last("KV_leases", "$KV.leases.queue")
    assert last is not None
    assert last.data == b"b"


async def test_an_answer_that_was_lost_costs_no_change_of_the_holder(store: Store, quick: None) -> None:
    held = Lease(store, "queue", "a")
    await held.acquire()
    await store.publish("$KV.leases.queue", b"a")  # a renewal of ours whose answer never came
    revision = held.revision
    while held.revision <= revision + 1:
        await asyncio.sleep(0.01)
    assert held.held
    await held.release()
