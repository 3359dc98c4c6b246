"""Usage: what is granted in one process counts in all, also in one that starts later, and nothing is counted twice."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.nats import NatsServer, connected
from waypost_policy.limits import Limiter, Scope
from waypost_queue import codec
from waypost_queue.model import Usage, UsageDelta
from waypost_queue.service.usage import MOST, UsageMemory
from waypost_queue.store import Store
from waypost_queue.usage import ASK, TOLD, Gossip

SCOPE = Scope("login/app", "app", "of app", per_minute=10, per_day=100)
NOW = 1_795_600_020.0


class Process:
    """One process' counters; `heard` is set when others told it something."""

    def __init__(self, store: Store) -> None:
        self.limiter = Limiter()
        self.heard = asyncio.Event()
        self.gossip = Gossip(store, drain=self.limiter.drain, merge=self._merge, adopt=self.limiter.adopt)

    def _merge(self, deltas: list[UsageDelta]) -> None:
        self.limiter.merge(deltas)
        self.heard.set()

    def take(self, recipients: int) -> bool:
        return self.limiter.take((SCOPE,), recipients, NOW) is None


@pytest.fixture
async def memory(store: Store) -> AsyncIterator[UsageMemory]:
    memory = UsageMemory(store, lambda: True, lambda: NOW)
    await memory.start()
    yield memory
    await memory.close()


async def test_what_one_grants_the_others_count(store: Store, nats_server: NatsServer) -> None:
    one, two = Process(store), Process(await nats_server.connect("two"))
    for process in (one, two):
        await process.gossip.start()
    assert one.take(8)
    await two.heard.wait()
    assert not two.take(3)
    assert two.take(2)
    await one.heard.wait()
    assert not one.take(1)
    for process in (one, two):
        await process.gossip.close()


@pytest.mark.usefixtures("memory")
async def test_whoever_starts_later_learns_what_was_granted_before(store: Store) -> None:
    one = Process(store)
    await one.gossip.start()
    assert one.take(8)
    await one.gossip.close()
    late = Process(store)
    await late.gossip.start()
    assert not late.take(3)
    assert late.take(2)
    await late.gossip.close()


@pytest.mark.usefixtures("memory")
async def test_after_a_reconnect_nothing_is_counted_twice(store: Store, nats_server: NatsServer) -> None:
    one = Process(store)
    await one.gossip.start()
    assert one.take(5)
    await one.gossip.tell()
    await nats_server.restart()
    await connected(store)
    assert one.take(5)
    assert not one.take(1)
    await one.gossip.close()


async def test_an_instance_that_stands_by_listens_but_does_not_answer(store: Store) -> None:
    active = False
    memory = UsageMemory(store, lambda: active, lambda: NOW)
    await memory.start()
    one = Process(store)
    await one.gossip.start()
    assert one.take(8)
    await one.gossip.tell()
    active = True
    answer = codec.decode((await store.request(ASK)).data, Usage)
    assert {(delta.key, delta.recipients) for delta in answer.deltas} == {("minute:login/app", 8), ("day:login/app", 8)}
    await one.gossip.close()
    await memory.close()


async def test_what_is_remembered_is_bounded_and_forgotten_with_its_window(store: Store, memory: UsageMemory) -> None:
    minute = int(NOW) // 60
    for start in range(0, MOST + 1000, 5000):
        deltas = [UsageDelta(key=f"minute:{n}", window=minute, recipients=1) for n in range(start, start + 5000)]
        await store.send(TOLD, codec.encode(Usage(process="x", deltas=tuple(deltas))))
    old = UsageDelta(key="minute:old", window=minute - 2, recipients=1)
    await store.send(TOLD, codec.encode(Usage(process="x", deltas=(old,))))
    answer = codec.decode((await store.request(ASK)).data, Usage)
    keys = {delta.key for delta in answer.deltas}
    assert len(keys) == MOST - 1
    assert "minute:old" not in keys
    assert "minute:0" not in keys
    assert len(codec.encode(answer)) < 8 << 20
