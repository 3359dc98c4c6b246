"""The end of a suspension releases what it held, at a rate, and nothing that another cause holds."""

import asyncio
import time
from collections.abc import Callable

import pytest
from msgspec import structs

from tests.queue.service_parts import PACE, counted, entries, hold, leading, mail, pull, queue_messages, ticket
from tests.support.wait import eventually
from waypost_queue import codec
from waypost_queue.config import DestinationConfig, DestinationLimits, DomainConfig, Meta, Snapshot
from waypost_queue.model import Ticket
from waypost_queue.service import suspensions
from waypost_queue.store import Store
from waypost_queue.streams import Layout

SLOW = structs.replace(PACE, census=30.0)  # then a release comes by the change alone


def snapshot(domain: str = "None", policy: bool | None = None, per_minute: int | None = None) -> Snapshot:
    policies = {}
    if policy is not None:
        limits = DestinationLimits(messages_per_minute=per_minute)
        policies["far"] = DestinationConfig(name="far", suspended=policy, limits=limits)
    return Snapshot(
        domains={"example.test": DomainConfig(domain="example.test", namespace="shop", suspend=domain)},  # type: ignore[arg-type]
        policies=policies,
        meta=Meta(generation=3),
    )


@pytest.mark.parametrize(
    ("scope", "config", "over"),
    [
        ("domain:example.test", snapshot("Outbound"), False),
        ("domain:example.test", snapshot("All"), False),
        ("domain:example.test", snapshot("Inbound"), True),
        ("domain:example.test", snapshot("None"), True),
        ("domain:gone.test", snapshot(), True),
        ("policy:far", snapshot(policy=True), False),
        ("policy:far", snapshot(policy=False), True),
        ("policy:far", snapshot(), True),
        ("site:mx.far.test", snapshot(), False),
        ("", snapshot(), False),
        ("domain:example.test", Snapshot(), False),
    ],
)
def test_a_suspension_is_over_when_its_object_says_so_or_is_gone(scope: str, config: Snapshot, over: bool) -> None:
    assert suspensions.ended(scope, config) is over


def states(store: Store, *of: Ticket) -> Callable[[], object]:
    async def now() -> list[str]:
        return sorted([state for t in of for state in await entries(store, t.mail)])

    return now


async def test_its_end_releases_what_it_held_and_never_what_a_person_held(store: Store, layout: Layout) -> None:
    released = counted("waypost_suspensions_released")
    mine, yours, other = ticket(mail()), ticket(mail()), ticket(mail())
    await hold(store, mine, "suspended", "domain:example.test", since=time.time() - 500)
    await hold(store, yours, "person")
    await hold(store, other, "suspended", "policy:far")
    config = snapshot("Outbound", policy=True)
    async with leading(store, layout, snapshot=lambda: config, pace=SLOW) as leader:
        while leader.statistics().shards[0].held < 3:
            await asyncio.sleep(0.01)
        assert await states(store, mine, yours, other)() == ["hold"] * 3  # type: ignore[misc]
        config = snapshot("None", policy=True)
        leader.configuration_changed()
        (message,) = await pull(store, "QUEUE-0", 1, expires=5)
        got = codec.decode(message.data, Ticket)
        assert got.mail.id == mine.mail.id
        assert got.hold is None
        assert got.verdict == "release"
        assert 500 <= got.held_total < 520
        assert not got.marked
        assert "hold" in await entries(store, yours.mail)
        assert "hold" in await entries(store, other.mail)
    assert counted("waypost_suspensions_released") == released + 1


async def test_an_end_that_came_while_no_queue_service_ran_is_seen_at_its_start(store: Store, layout: Layout) -> None:
    of = ticket(mail())
    await hold(store, of, "suspended", "domain:example.test")
    async with leading(store, layout, snapshot=snapshot):

        async def freed() -> bool:
            return list(await entries(store, of.mail)) == ["ready"]

        await eventually(freed, 5, "released")


async def test_the_rate_of_a_policy_is_kept_and_holds_up_no_other_scope(store: Store, layout: Layout) -> None:
    slow = [ticket(mail()) for _ in range(4)]
    fast = [ticket(mail()) for _ in range(20)]
    for of in slow:
        await hold(store, of, "suspended", "policy:far")
    for of in fast:
        await hold(store, of, "suspended", "domain:example.test")
    config = snapshot(policy=False, per_minute=120)
    began = time.monotonic()
    async with leading(store, layout, snapshot=lambda: config):

        async def left(of: list[Ticket]) -> bool:
            ids = {t.mail.id for t in of}
            return not any(s.subject.split(".")[5] in ids for s in await queue_messages(store, "q0.hold.>"))

        await eventually(lambda: left(fast), 5, "the fast scope")
        assert not await left(slow)
        await eventually(lambda: left(slow), 5, "the slow scope")
    assert time.monotonic() - began >= 1.5 - 0.1, "4 at two a second"


async def test_a_suspension_that_comes_back_stops_the_release(store: Store, layout: Layout) -> None:
    of = [ticket(mail()) for _ in range(10)]
    for t in of:
        await hold(store, t, "suspended", "policy:far")
    config = snapshot(policy=False, per_minute=300)
    async with leading(store, layout, snapshot=lambda: config):
        assert len(await pull(store, "QUEUE-0", 1, expires=5)) == 1
        config = snapshot(policy=True)
        leftover = len(await queue_messages(store, "q0.hold.>"))
        assert await pull(store, "QUEUE-0", 10, expires=1.0) == [] or leftover >= 7
        assert len(await queue_messages(store, "q0.hold.>")) >= 8
