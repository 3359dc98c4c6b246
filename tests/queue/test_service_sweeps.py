"""Each fault that the sweeps heal, made on a real server: healed without loss or second delivery, and counted."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from msgspec import structs

from tests.queue.service_parts import (
    PACE,
    ack,
    counted,
    defer,
    hold,
    leading,
    mail,
    make_ready,
    pull,
    put_bundle,
    queue_messages,
    subject,
    ticket,
)
from tests.support.nats import LAYOUT, QUICK, NatsServer, prepared
from tests.support.wait import eventually
from waypost_queue import codec, subjects
from waypost_queue.errors import FullError
from waypost_queue.model import Bundle, Ticket
from waypost_queue.service import moves
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.streams import Layout, Timing
from waypost_queue.tickets import FAR, schedule_time


@pytest.fixture
def layout() -> Layout:
    """A message comes back in half a second, so that a forgotten one is known as such in one."""
    return structs.replace(LAYOUT, timing=Timing(ack_wait=0.5, pull_expires=0.1, keep_alive=0.1, attempt_limit=60.0))


async def forget(store: Store, stream: str, victim: str, acked: int) -> None:
    """The trap: one of the messages in hand is purged by a filter, then a later one is acked."""
    messages = await pull(store, stream, 6)
    assert len(messages) == 6
    await store.api(f"STREAM.PURGE.{stream}", {"filter": victim})
    await ack(store, messages[acked])
    info = await store.api(f"CONSUMER.INFO.{stream}.default-fast")
    assert info["ack_floor"]["stream_seq"] >= acked, "this server has no such trap any more"


async def drained(store: Store, stream: str, number: int, quiet: float = 0.8) -> list[bytes]:
    """`number` messages, acked as they come, and whatever else comes within `quiet` seconds, longer than `ack_wait`."""
    out: list[bytes] = []

    async def some() -> bool:
        for message in await pull(store, stream, 10, expires=0.1):
            out.append(message.data)
            await ack(store, message)
        return len(out) >= number

    await eventually(some, 15, f"{number} messages of {stream}")
    out += [message.data for message in await pull(store, stream, 10, expires=quiet)]
    return out


async def test_tickets_that_the_server_forgot_are_delivered_again_marked_and_only_once(
    store: Store, layout: Layout
) -> None:
    healed = counted("waypost_sweep_forgotten", kind="ticket")
    of = [ticket(mail()) for _ in range(6)]
    stored = {t.mail.id: await make_ready(store, t) for t in of}
    await forget(store, "QUEUE-0", subject("ready", of[3]), acked=4)
    seen = {codec.decode(data, Ticket).mail.id for data in await drained(store, "QUEUE-0", 1, quiet=0.1)}
    assert seen == {of[5].mail.id}, "the server gives back what it remembers, and it alone"
    forgotten = {t.mail.id for t in of[:3]}
    async with leading(store, layout):
        got = [codec.decode(data, Ticket) for data in await drained(store, "QUEUE-0", 3)]
    assert sorted(t.mail.id for t in got) == sorted(forgotten)
    for t in got:
        assert t.marked
        assert t.origin_seq == stored[t.mail.id]
        assert abs(t.origin_time - t.mail.accepted) < 5
    assert await queue_messages(store) == []
    assert counted("waypost_sweep_forgotten", kind="ticket") == healed + 3


async def test_a_forgotten_ticket_whose_successor_is_stored_is_taken_away_unsent(store: Store, layout: Layout) -> None:
    of = [ticket(mail()) for _ in range(6)]
    stored = [await make_ready(store, t) for t in of]
    headers = {"Nats-Schedule": schedule_time(time.time() + 3600), "Nats-Schedule-Target": subject("ready", of[0])}
    later = structs.replace(of[0], attempt=2)
    await forget(store, "QUEUE-0", subject("ready", of[3]), acked=4)
    seq = (await store.publish(subject("sched", later), codec.encode(later), headers)).seq
    async with leading(store, layout):

        async def gone() -> bool:
            return await store.at("QUEUE-0", stored[0]) is None

        await eventually(gone, 10, "the settled ticket is taken away")
        got = {codec.decode(d, Ticket).mail.id for d in await drained(store, "QUEUE-0", 3)}
    assert of[0].mail.id not in got
    assert [s.seq for s in await queue_messages(store)] == [seq]


async def test_bundles_that_the_server_forgot_are_copied_marked_and_the_original_goes_after_its_copy(
    store: Store, layout: Layout
) -> None:
    healed = counted("waypost_sweep_forgotten", kind="bundle")
    mails = [mail() for _ in range(6)]
    stored = {m.id: await put_bundle(store, m, ident=f"b{i}") for i, m in enumerate(mails)}
    await forget(store, "INTAKE-0", "intake0.default.fast.b3", acked=4)
    assert len(await drained(store, "INTAKE-0", 1, quiet=0.1)) == 1
    async with leading(store, layout):

        async def copied() -> bool:
            return await store.last("INTAKE-0", f"intake0.*.*.heal-{stored[mails[2].id]}") is not None

        await eventually(copied, 10, "the copies")
        assert await store.at("INTAKE-0", stored[mails[0].id]) is not None, "the original waits for its copy"
        bundles = [codec.decode(d, Bundle) for d in await drained(store, "INTAKE-0", 3)]

        async def empty() -> bool:
            return (await store.api("STREAM.INFO.INTAKE-0"))["state"]["messages"] == 0

        await eventually(empty, 10, "the originals go")
    assert sorted(b.mails[0].id for b in bundles) == sorted(m.id for m in mails[:3])
    for bundle in bundles:
        assert bundle.marked
        assert bundle.origin_seq == stored[bundle.mails[0].id]
        assert abs(bundle.origin_time - bundle.mails[0].accepted) < 5
    assert counted("waypost_sweep_forgotten", kind="bundle") == healed + 3


async def test_what_is_in_hand_or_was_acked_just_now_is_not_forgotten(store: Store, layout: Layout) -> None:
    healed = counted("waypost_sweep_forgotten")
    of = [ticket(mail()) for _ in range(20)]
    async with leading(store, structs.replace(layout, timing=QUICK)):
        for t in of:
            await make_ready(store, t)
        got = []
        while messages := await pull(store, "QUEUE-0", 5, expires=0.2):
            for message in messages:
                await store.request(message.reply, b"+WPI")
                got.append(codec.decode(message.data, Ticket))
                await ack(store, message)
    assert len(got) == 20
    assert not any(t.marked for t in got)
    assert counted("waypost_sweep_forgotten") == healed


async def test_a_schedule_that_never_fires_is_made_ready_once(store: Store, layout: Layout) -> None:
    healed = counted("waypost_sweep_overdue")
    stuck, waits = ticket(mail()), ticket(mail())
    await store.publish(subject("sched", stuck), codec.encode(stuck))  # without its schedule the server never fires it
    await defer(store, waits)
    async with leading(store, layout, pace=structs.replace(PACE, overdue_after=0.3)):
        (data,) = await drained(store, "QUEUE-0", 1)
    assert codec.decode(data, Ticket).mail.id == stuck.mail.id
    assert [s.subject for s in await queue_messages(store)] == [subject("sched", waits)]
    assert counted("waypost_sweep_overdue") == healed + 1


async def fill(store: Store, size: int) -> None:
    while True:
        await store.publish("junk", bytes(size))


async def test_a_schedule_that_fell_due_while_the_store_was_full_is_delivered_once(tmp_path: Path) -> None:
    layout = structs.replace(LAYOUT, store_bytes=64 << 20)
    async with NatsServer(tmp_path / "nats", max_file_store=100 << 20) as server:
        store = await prepared(server, layout)
        of = ticket(mail())
        await store.api("STREAM.CREATE.JUNK", {"name": "JUNK", "subjects": ["junk"], "storage": "file"})
        with pytest.raises(FullError):
            await fill(store, 4 << 20)
        await store.api("STREAM.PURGE.JUNK", {"keep": 20})
        await defer(store, of, 1.5)
        due = time.monotonic() + 1.5
        with pytest.raises(FullError):
            await fill(store, 4 << 20)
        await asyncio.sleep(max(0.0, due + 0.5 - time.monotonic()))  # the schedule's time has to pass
        async with leading(store, layout, pace=structs.replace(PACE, overdue_after=0.3)):
            assert await pull(store, "QUEUE-0", 1, expires=0.3) == [], "the store was not full"
            await store.api("STREAM.PURGE.JUNK")
            (data,) = await drained(store, "QUEUE-0", 1)
            assert codec.decode(data, Ticket).mail.id == of.mail.id
            assert await queue_messages(store) == []


async def test_of_two_waiting_entries_of_a_group_only_the_newest_stays(store: Store, layout: Layout) -> None:
    healed = counted("waypost_sweep_superseded")
    of, alone = ticket(mail()), ticket(mail())
    await defer(store, of, 2.0)  # its schedule was not taken away when the hold came: it would fire in 2 s
    seq = await hold(store, of)
    other = await defer(store, alone)
    async with leading(store, layout):

        async def one() -> bool:
            return [s.seq for s in await queue_messages(store)] == [seq, other]

        await eventually(one, 1.5, "the older schedule is deleted")
        assert await pull(store, "QUEUE-0", 1, expires=2.5) == [], "and does not fire"
    assert counted("waypost_sweep_superseded") == healed + 1


async def test_the_ticket_in_hand_beside_its_next_schedule_is_left_to_its_owner(store: Store, layout: Layout) -> None:
    healed = counted("waypost_sweep_superseded")
    of = ticket(mail())
    first = await make_ready(store, of)
    (message,) = await pull(store, "QUEUE-0", 1)
    second = await defer(store, of)
    async with leading(store, layout) as leader:
        while leader.statistics().shards[0].deferred == 0:
            await asyncio.sleep(0.01)
        assert [s.seq for s in await queue_messages(store)] == [first, second]
    await ack(store, message)
    assert counted("waypost_sweep_superseded") == healed


async def test_a_body_that_nothing_needs_is_purged_and_one_that_is_needed_stays(store: Store, layout: Layout) -> None:
    healed = counted("waypost_sweep_orphans")
    spool = Spool(store)
    orphan, waits, held, young, bundled = (mail(age=7200, content=bytes(600_000)) for _ in range(5))
    young = mail()
    for of in (orphan, waits, held, young):
        await spool.put(of.id, of.content or b"")
    await defer(store, ticket(waits))
    await hold(store, ticket(held))
    # all were stored just now: a margin of nothing makes them old as soon as the clock has moved on
    async with leading(store, layout, pace=structs.replace(PACE, orphan_margin=0.0)):

        async def bodies() -> set[str]:
            info = await store.api("STREAM.INFO.SPOOL-0", {"subjects_filter": "spool0.>"})
            return {name.split(".")[1] for name in info["state"].get("subjects") or {}}

        async def swept() -> bool:
            return await bodies() == {waits.id, held.id}

        await eventually(swept, 5, "what nothing needs goes")
        assert counted("waypost_sweep_orphans") == healed + 2
    # a bundle in INTAKE protects all that came after it, and a bundle that is held whole all of its shard
    await put_bundle(store, bundled)
    await spool.put(bundled.id, bundled.content or b"")
    async with leading(store, layout, pace=structs.replace(PACE, orphan_margin=0.0)) as leader:
        while leader.statistics().shards[0].held == 0:
            await asyncio.sleep(0.01)
        assert await bodies() == {waits.id, held.id, bundled.id}
        (message,) = await pull(store, "INTAKE-0", 1)
        at = subjects.held_bundle(0, "default", "fast", 1)
        headers = {"Nats-Schedule": schedule_time(FAR), "Nats-Schedule-Target": moves.in_state(at, "ready")}
        await store.publish(at, message.data, headers)
        await ack(store, message)
        while leader.statistics().shards[0].held < 2:
            await asyncio.sleep(0.01)
        assert await bodies() == {waits.id, held.id, bundled.id}


async def test_a_body_younger_than_the_margin_is_left_alone(store: Store, layout: Layout) -> None:
    old_id = mail(age=7200)  # accepted long ago, its body stored just now: a slow upload, or a first deferral
    await Spool(store).put(old_id.id, b"x" * 1000)
    seen = await defer(store, ticket(mail()))
    async with leading(store, layout) as leader:
        while leader.statistics().shards[0].deferred == 0:
            await asyncio.sleep(0.01)
    assert seen
    assert (await store.api("STREAM.INFO.SPOOL-0"))["state"]["messages"] == 1


async def test_a_lane_that_lost_its_consumer_gets_it_back_and_its_mail_is_delivered_once(
    store: Store, layout: Layout
) -> None:
    healed = counted("waypost_sweep_consumers")
    await store.api("CONSUMER.DELETE.INTAKE-0.default-fast")
    await store.api("CONSUMER.DELETE.QUEUE-0.default-fast")
    async with leading(store, layout):  # its first step makes what the layout names
        await put_bundle(store, mail())
        await make_ready(store, ticket(mail()))
        await store.api("CONSUMER.DELETE.INTAKE-0.default-fast")
        await store.api("CONSUMER.DELETE.QUEUE-0.default-fast")
        before = counted("waypost_sweep_consumers")
        assert before == healed, "the layout's consumers are no repair"

        async def back() -> bool:
            return counted("waypost_sweep_consumers") == healed + 2

        await eventually(back, 5, "both consumers are made again")
        assert len(await drained(store, "INTAKE-0", 1)) == 1
        assert len(await drained(store, "QUEUE-0", 1)) == 1


async def test_a_pool_that_only_mail_knows_gets_consumers_and_is_shown_as_unserved(
    store: Store, layout: Layout
) -> None:
    await store.publish("intake0.warm.fast.x", codec.encode(Bundle(mails=(mail(),))))
    of = ticket(mail())
    await store.publish(subject("ready", of).replace(".default.", ".warm."), codec.encode(of))
    async with leading(store, layout) as leader:
        while leader.statistics().unserved_pools != ("warm",):
            await asyncio.sleep(0.01)
        pending = [(lane.stream, lane.lane, lane.pending) for lane in leader.statistics().lanes if lane.pool == "warm"]
        while len(pending) < 2:
            await asyncio.sleep(0.01)
            pending = [(ln.stream, ln.lane, ln.pending) for ln in leader.statistics().lanes if ln.pool == "warm"]
    assert sorted(pending) == [("intake", "fast", 1), ("queue", "fast", 1)]
    names = json.dumps((await store.api("CONSUMER.NAMES.INTAKE-0"))["consumers"])
    assert "warm-fast" in names
