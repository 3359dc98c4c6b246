"""Heartbeats: at once, again when the configuration changes, and over for certain when closed."""

import asyncio

from nats.aio.msg import Msg

from waypost_queue import codec
from waypost_queue.heartbeat import Beat, Heartbeat
from waypost_queue.store import Store


async def test_it_tells_what_runs_at_once_and_again_when_that_changes(store: Store) -> None:
    beats: asyncio.Queue[tuple[str, Beat]] = asyncio.Queue()

    async def heard(message: Msg) -> None:
        beats.put_nowait((message.subject, codec.decode(message.data, Beat)))

    await store.subscribe("hb.>", heard)
    generation = 3
    heartbeat = Heartbeat(store, "delivery", lambda: generation)
    heartbeat.start()
    subject, first = await beats.get()
    assert (first.service, first.config_generation) == ("delivery", 3)
    assert subject == f"hb.delivery.{first.incarnation}"
    generation = 4
    heartbeat.beat()
    _, second = await beats.get()
    assert (second.incarnation, second.config_generation) == (first.incarnation, 4)
    await heartbeat.close()
    heartbeat.beat()
    await store.nc.flush()
    assert beats.empty()
