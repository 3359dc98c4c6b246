"""Events: batched behind the mail's back, bounded, lost only when counted, read in order through a restart."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.nats import NatsServer, connected
from waypost_queue import codec, eventlog
from waypost_queue.eventlog import EventLog, new_id
from waypost_queue.events import Event, EventBatch
from waypost_queue.store import Store


def event(text: str = "") -> Event:
    return Event(id=new_id(), kind="state", at=0.0, text=text)


async def batches(store: Store) -> list[EventBatch]:
    return [codec.decode(m.data, EventBatch) async for m in store.direct("EVENTS", "events.>")]


async def test_events_come_in_order_in_batches_of_at_most_100_with_their_worker(store: Store) -> None:
    events = EventLog(store, "delivery", "worker-1")
    await events.start()
    sent = [event(str(number)) for number in range(250)]
    for each in sent:
        events.emit(each)
    await events.drain(5)
    await events.close()
    stored = await batches(store)
    assert [len(batch.events) for batch in stored] == [100, 100, 50]
    told = [each for batch in stored for each in batch.events]
    assert [each.id for each in told] == [each.id for each in sent]
    assert {each.worker for each in told} == {"worker-1"}


async def test_a_batch_holds_at_most_256_kib_and_a_larger_event_goes_alone(store: Store) -> None:
    events = EventLog(store, "delivery", "")
    for size in (100_000, 100_000, 100_000, 300_000, 10):
        events.emit(event("x" * size))
    await events.start()
    await events.drain(5)
    await events.close()
    assert [len(batch.events) for batch in await batches(store)] == [2, 1, 1, 1]


async def test_an_outage_is_waited_out_without_blocking(store: Store, nats_server: NatsServer) -> None:
    events = EventLog(store, "delivery", "")
    await events.start()
    await nats_server.kill()
    for number in range(10):
        events.emit(event(str(number)))
    await nats_server.start()
    await events.drain(20)
    await events.close()
    told = [each.text for batch in await batches(store) for each in batch.events]
    assert list(dict.fromkeys(told)) == [str(number) for number in range(10)]


async def test_what_does_not_fit_the_buffer_is_dropped_and_the_rest_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "MAX_WAITING", 1000)
    events = EventLog(store, "delivery", "")
    for number in range(10):
        events.emit(event(f"{number}" * 250))
    await events.start()
    await events.drain(5)
    events.emit(event("later"))
    await events.drain(5)
    await events.close()
    told = [each.text[:1] for batch in await batches(store) for each in batch.events]
    assert told == ["0", "1", "2", "l"]


def test_event_ids_do_not_repeat() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


async def test_a_reader_gets_every_batch_in_order_from_where_it_left_off_and_through_a_restart(
    store: Store, nats_server: NatsServer
) -> None:
    async def publish(text: str) -> int:
        return (await store.publish("events.test", codec.encode(EventBatch(events=(event(text),))))).seq

    told: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    async def callback(seq: int, events: Sequence[Event]) -> None:
        told.put_nowait((seq, " ".join(event.text for event in events)))

    await publish("before")
    first = await publish("first")
    await store.publish("events.test", b"not one of ours")
    second = await publish("second")
    reader = asyncio.create_task(eventlog.read(store, first, callback))
    said = [await told.get()]
    while said[-1][0] != second:
        said.append(await told.get())
    assert " ".join(text for _, text in said) == "first second"
    await nats_server.restart()
    await connected(store)
    third = await publish("third")
    assert await told.get() == (third, "third")
    assert told.empty()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


async def test_a_reader_whose_callback_fails_ends_with_its_error(store: Store) -> None:
    async def callback(seq: int, events: Sequence[Event]) -> None:
        raise LookupError("no such table")

    await store.publish("events.test", codec.encode(EventBatch(events=(event(),))))
    with pytest.raises(LookupError, match="no such table"):
        await eventlog.read(store, 1, callback)
