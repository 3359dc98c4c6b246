"""Streams and consumers: made once, upgraded in place, never made because a look-up failed."""

import pytest

from tests.support.nats import LAYOUT, NatsServer
from waypost_queue import subjects
from waypost_queue.errors import StoreError
from waypost_queue.service import admin
from waypost_queue.store import Store
from waypost_queue.streams import Layout, consumer_configs, stream_configs


async def test_every_stream_and_consumer_of_the_layout_is_made(store: Store, layout: Layout) -> None:
    for config in stream_configs(layout):
        info = await store.api(f"STREAM.INFO.{config['name']}")
        assert {key: info["config"].get(key) or 0 for key in config} == {key: v or 0 for key, v in config.items()}
    for stream in (subjects.intake_stream(0), subjects.queue_stream(0)):
        wanted = {config["name"] for name, config in consumer_configs(layout) if name == stream}
        assert set(await admin.consumers(store, stream)) == wanted


async def test_applying_again_changes_nothing(store: Store, layout: Layout) -> None:
    before = await store.api("STREAM.INFO.QUEUE-0")
    await admin.apply(store, layout)
    after = await store.api("STREAM.INFO.QUEUE-0")
    assert after["config"] == before["config"]
    assert after["created"] == before["created"]


async def test_an_upgrade_keeps_messages_and_settings_that_it_does_not_know(store: Store, layout: Layout) -> None:
    current = (await store.api("STREAM.INFO.INTAKE-0"))["config"]
    await store.api("STREAM.UPDATE.INTAKE-0", {**current, "metadata": {"owner": "ops"}, "max_msg_size": 4 << 20})
    await store.publish("intake0.default.fast.one", b"kept")
    await admin.apply(store, Layout(shards=1, pools=("default", "warm"), store_bytes=layout.store_bytes * 2))
    info = await store.api("STREAM.INFO.INTAKE-0")
    assert info["config"]["max_msg_size"] == 4 << 20
    assert info["config"]["metadata"]["owner"] == "ops"
    assert info["config"]["max_bytes"] == int(layout.store_bytes * 2 * 0.15)
    assert info["state"]["messages"] == 1
    assert "warm-prio" in await admin.consumers(store, "INTAKE-0")


async def test_a_changed_consumer_setting_is_applied_to_a_consumer_that_has_messages_in_hand(
    store: Store, layout: Layout
) -> None:
    from tests.queue.service_parts import pull

    await store.publish("intake0.default.fast.one", b"x")
    (message,) = await pull(store, "INTAKE-0", 1)
    quick = Layout(
        shards=1, pools=layout.pools, store_bytes=layout.store_bytes, timing=type(layout.timing)(ack_wait=60.0)
    )
    await admin.apply(store, quick)
    info = (await admin.consumers(store, "INTAKE-0"))["default-fast"]
    assert info["config"]["ack_wait"] == 60_000_000_000
    assert info["num_ack_pending"] == 1
    await store.request(message.reply, b"+ACK")


async def test_the_cap_of_settle_is_not_lowered_below_what_it_holds(store: Store, layout: Layout) -> None:
    for _ in range(30):
        await store.publish("settle0", bytes(1 << 20))
    smaller = Layout(shards=1, pools=layout.pools, store_bytes=layout.store_bytes // 8)
    await admin.apply(store, smaller)
    info = await store.api("STREAM.INFO.SETTLE-0")
    assert info["state"]["messages"] == 30


async def test_a_silent_server_is_not_taken_for_an_empty_one(
    nats_server: NatsServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.publish("intake0.default.fast.one", b"kept")
    monkeypatch.setattr(admin, "ADMIN_TIMEOUT", 0.2)
    nats_server.pause()
    try:
        with pytest.raises(StoreError):
            await admin.apply(store, LAYOUT)
    finally:
        nats_server.resume()
    await admin.apply(store, LAYOUT)
    assert (await store.api("STREAM.INFO.INTAKE-0"))["state"]["messages"] == 1


async def test_a_setting_that_the_server_ignores_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.api

    async def old(subject: str, body: object = None, timeout: float = 5.0) -> dict:  # type: ignore[type-arg]
        answer = await real(subject, body, timeout)
        if subject == "STREAM.CREATE.QUEUE-1":
            del answer["config"]["allow_msg_schedules"]
        return answer

    monkeypatch.setattr(store, "api", old)
    with pytest.raises(admin.LayoutError, match=r"QUEUE-1: the server ignores allow_msg_schedules; nats-server 2\.15"):
        await admin.apply(store, Layout(shards=2, store_bytes=1 << 30))
