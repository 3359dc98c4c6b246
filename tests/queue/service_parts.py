"""What the tests of the queue service share: tickets, bundles, a worker made of raw requests, a look at the metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import opentelemetry.metrics
from msgspec import structs
from nats.aio.msg import Msg
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY

from waypost_queue import codec, ids, listing, subjects
from waypost_queue.config import Snapshot
from waypost_queue.events import Event
from waypost_queue.model import Bundle, Hold, Mail, Recipient, Ticket, groups_of
from waypost_queue.service.leader import Leader, Pace
from waypost_queue.store import Store, Stored
from waypost_queue.streams import Layout
from waypost_queue.tickets import FAR, schedule_time
from waypost_runtime import metrics

PACE = Pace(marks=0.05, forgotten=0.1, statistics=0.1, census=0.1, census_share=1.0)
"""Rounds that follow one another quickly."""


def mail(*domains: str, age: float = 0.0, content: bytes | None = b"hello") -> Mail:
    now = time.time() - age
    return Mail(
        id=ids.mail_id(now, 0),
        sender="app@example.test",
        recipients=tuple(Recipient(address=f"u{i}@{d}", domain=d) for i, d in enumerate(domains or ("far.test",))),
        size=len(content or b""),
        accepted=now,
        content=content,
        domain="example.test",
        tenant="shop",
    )


def ticket(of: Mail, domain: str | None = None, **changes: Any) -> Ticket:
    groups = groups_of(of)
    domain = domain or of.recipients[0].domain
    indexes = groups[domain]
    return structs.replace(
        Ticket(
            mail=structs.replace(of, content=None, recipients=tuple(of.recipients[i] for i in indexes)),
            domain=domain,
            n=indexes[0],
            indexes=indexes,
            attempt=1,
            groups=tuple((d, i[0]) for d, i in groups.items()),
            lane="fast",
            pool="default",
        ),
        **changes,
    )


def subject(state: Any, of: Ticket) -> str:
    return subjects.ticket(state, 0, "default", "fast", of.domain, of.mail.id, of.n)


async def defer(store: Store, of: Ticket, seconds: float = 3600.0) -> int:
    """Stores a ticket that waits; its sequence."""
    headers = {"Nats-Schedule": schedule_time(time.time() + seconds), "Nats-Schedule-Target": subject("ready", of)}
    return (await store.publish(subject("sched", of), codec.encode(of), headers)).seq


async def hold(store: Store, of: Ticket, cause: Any = "person", scope: str = "", since: float = 0.0) -> int:
    held = structs.replace(of, hold=Hold(cause=cause, reason="test", since=since or time.time(), scope=scope))
    headers = {"Nats-Schedule": schedule_time(FAR), "Nats-Schedule-Target": subject("ready", of)}
    return (await store.publish(subject("hold", of), codec.encode(held), headers)).seq


async def make_ready(store: Store, of: Ticket) -> int:
    return (await store.publish(subject("ready", of), codec.encode(of))).seq


async def put_bundle(store: Store, *mails: Mail, ident: str = "") -> int:
    where = subjects.intake(0, "default", "fast", ident or ids.ulid(time.time()))
    return (await store.publish(where, codec.encode(Bundle(mails=mails)))).seq


async def pull(store: Store, stream: str, count: int, expires: float = 0.2) -> list[Msg]:
    """Up to `count` messages of the lane default-fast, in hand from now on."""
    inbox = store.nc.new_inbox()
    queue: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await store.subscribe(inbox, queue.put)
    request = b'{"batch":%d,"expires":%d}' % (count, int(expires * 1e9))
    await store.nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.default-fast", request, reply=inbox)
    out: list[Msg] = []
    while len(out) < count:
        message = await asyncio.wait_for(queue.get(), expires + 5)
        if not message.reply.startswith("$JS.ACK"):
            break  # 404 or 408: there is no more
        out.append(message)
    await store.unsubscribe(subscription)
    return out


async def ack(store: Store, message: Msg) -> None:
    await store.request(message.reply, b"+ACK")


async def entries(store: Store, of: Mail) -> dict[str, listing.Found]:
    """State -> ticket, for a mail with one group."""
    return {subjects.TicketSubject(f.subject).state: f for f in await listing.tickets_of(store, of.id)}


async def queue_messages(store: Store, pattern: str = "q0.>") -> list[Stored]:
    return [stored async for stored in store.direct("QUEUE-0", pattern)]


def counted(name: str, **labels: str) -> float:
    """A counter's value as /metrics shows it."""
    if not isinstance(opentelemetry.metrics.get_meter_provider(), MeterProvider):
        metrics.setup("test", "test")
    total = 0.0
    for family in REGISTRY.collect():
        for sample in family.samples:
            named = sample.name.startswith(name) and sample.name.endswith("_total")
            if named and all(sample.labels.get(key) == value for key, value in labels.items()):
                total += sample.value
    return total


@asynccontextmanager
async def leading(
    store: Store,
    layout: Layout,
    *,
    snapshot: Callable[[], Snapshot] = Snapshot,
    emit: Callable[[Event], None] = lambda _: None,
    pace: Pace = PACE,
) -> AsyncIterator[Leader]:
    """An active queue service within this process."""
    leader = Leader(store, layout, snapshot=snapshot, emit=emit, by="test", pace=pace)
    task = asyncio.create_task(leader.run())
    try:
        await asyncio.wait_for(leader.ready.wait(), 20)
        yield leader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
