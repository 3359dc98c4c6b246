"""Counts, lists and statistics of the queue, as the API reads them."""

import asyncio
from pathlib import Path

from tests.queue.service_parts import defer, hold, leading, mail, make_ready, put_bundle, ticket
from tests.support.nats import LAYOUT, NatsServer
from tests.support.wait import eventually
from waypost_queue import control, ids, listing, natsconf, subjects
from waypost_queue.model import ControlRequest
from waypost_queue.permissions import SERVICES, inbox_prefix, permissions
from waypost_queue.service import admin
from waypost_queue.store import Store
from waypost_queue.streams import Layout
from waypost_queue.tickets import FAR, schedule_time


async def test_destinations_count_what_waits_for_its_first_attempt_is_deferred_and_is_held(store: Store) -> None:
    first = mail("a.test", "b.test", age=50)
    await put_bundle(store, first, mail("a.test"))
    await defer(store, ticket(mail("a.test", age=100)))
    await make_ready(store, ticket(mail("a.test")))
    await hold(store, ticket(mail("b.test")))
    await store.publish(f"q0.guard.default.fast.c_test.{first.id}.0", b"", {"Nats-TTL": "60s"})
    a, b = await listing.destinations(store, 1)
    assert (a.domain, a.waiting, a.deferred, a.held) == ("a.test", 2, 2, 0)
    assert (b.domain, b.waiting, b.deferred, b.held) == ("b.test", 1, 0, 1)
    assert abs(a.oldest - (first.accepted - 50)) < 1
    assert b.oldest == first.accepted


async def test_tickets_are_listed_by_destination_and_state_up_to_a_limit(store: Store) -> None:
    of = [ticket(mail("a.test")) for _ in range(5)]
    for each in of[:3]:
        await defer(store, each)
    for each in of[3:]:
        await hold(store, each)
    await defer(store, ticket(mail("b.test")))
    assert [f.ticket.mail.id for f in await listing.tickets(store, 1, "a.test")] == [t.mail.id for t in of]
    assert [f.ticket.mail.id for f in await listing.tickets(store, 1, "a.test", "hold")] == [t.mail.id for t in of[3:]]
    assert len(await listing.tickets(store, 1, limit=2)) == 2
    assert len(await listing.tickets(store, 1)) == 6
    assert await listing.tickets(store, 1, "c.test") == []
    (found,) = await listing.tickets_of(store, of[3].mail.id)
    assert found.ticket.hold is not None
    assert found.due == FAR
    assert found.seq == 4


async def test_a_bundle_that_is_held_whole_is_listed_with_its_reason_and_an_id_to_act_on(store: Store) -> None:
    at = subjects.held_bundle(0, "default", "fast", 9)
    headers = {"Nats-Schedule": schedule_time(FAR), "Nats-Schedule-Target": at.replace(".hold.", ".ready.")}
    await store.publish(at, b"\x00", {**headers, "Waypost-Reason": "written by a stranger"})
    (found,) = await listing.tickets(store, 1, state="hold")
    assert found.ticket.mail.id == "bundle-9-0"
    assert listing.shard_of(found.ticket.mail.id) == 0
    assert found.ticket.hold is not None
    assert "written by a stranger" in found.ticket.hold.reason
    (row,) = await listing.destinations(store, 1)
    assert (row.domain, row.held) == ("", 1)


async def test_statistics_tell_counts_ages_causes_and_who_waits_for_whom(store: Store, layout: Layout) -> None:
    await put_bundle(store, mail())
    await defer(store, ticket(mail("a.test", age=1000)))
    await hold(store, ticket(mail("a.test")), cause="poison")
    async with leading(store, layout) as leader:
        while (told := leader.statistics()).shards[0].bundles == 0 or not told.destinations:
            await asyncio.sleep(0.01)
        told = await listing.statistics(store)
    (shard,) = told.shards
    assert (shard.bundles, shard.deferred, shard.held, shard.undecodable) == (1, 1, 1, 0)
    assert 990 < told.at - shard.oldest_ticket < 1010
    assert 0 <= told.at - shard.oldest_bundle < 10
    assert shard.intake_limit == int(layout.store_bytes * 0.15)
    assert told.destinations == (("a.test", 2),)
    assert told.tenants == (("shop", 2),)
    assert told.held_by == (("poison", 1),)
    assert told.unserved_pools == ("default",)
    (lane,) = told.lanes
    assert (lane.stream, lane.pool, lane.lane, lane.pending) == ("intake", "default", "fast", 1)


async def test_the_queue_service_and_who_asks_it_do_with_their_own_permissions(tmp_path: Path) -> None:
    users = tuple(natsconf.User(name=name, password=name, permissions=permissions(name, 1)) for name in SERVICES)
    async with NatsServer(tmp_path / "nats", users=users, system_user="system", system_password="sys") as server:

        async def as_service(name: str) -> Store:
            return await server.connect(user=name, password=name, inbox_prefix=inbox_prefix(name))

        queue, api = await as_service("queue"), await as_service("api")
        await admin.apply(queue, LAYOUT)
        of = ticket(mail("a.test"))
        await defer(queue, of)
        async with leading(queue, LAYOUT):
            assert (await control.act(api, ControlRequest(action="hold", mail=of.mail.id, by="ada"))).acted == 1
            assert (
                await control.act(api, ControlRequest(action="hold", mail="nonsense", by="ada"))
            ).error == "not-found"

            async def seen() -> bool:
                return (await listing.statistics(api)).held_by == (("person", 1),)

            await eventually(seen, 10, "the pass sees the hold")
        assert [row.held for row in await listing.destinations(api, 1)] == [1]
        assert len(await listing.tickets(api, 1, "a.test")) == 1
        assert len(await listing.tickets_of(api, of.mail.id)) == 1
        assert not queue.fatal
        assert not api.fatal
        assert ids.shard_of(of.mail.id) == 0
