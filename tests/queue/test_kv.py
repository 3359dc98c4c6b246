"""KV buckets: fenced writes, and watches that miss neither a change nor a delete."""

import asyncio

import pytest

from tests.support.nats import NatsServer, connected
from waypost_queue.errors import FencedError
from waypost_queue.kv import Bucket, Changes
from waypost_queue.store import Store


@pytest.fixture
def bucket(store: Store) -> Bucket:
    return Bucket(store, "state")


class Seen:
    """A watch's callback: what is there by all that it was told, and an event for each call."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.calls: list[dict[str, bytes | None]] = []
        self._told = asyncio.Condition()
        self._event = asyncio.Event()

    def __call__(self, changes: Changes) -> None:
        self.calls.append({key: entry and entry.value for key, entry in changes.items()})
        for key, entry in changes.items():
            if entry is None:
                del self.state[key]
            else:
                self.state[key] = entry.value
        self._event.set()

    async def until(self, state: dict[str, bytes]) -> None:
        async with asyncio.timeout(20):
            while self.state != state:
                self._event.clear()
                await self._event.wait()


async def test_what_is_put_is_read_back_with_its_revision(bucket: Bucket) -> None:
    revision = await bucket.put("a.b", b"1")
    entry = await bucket.get("a.b")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision) == ("a.b", b"1", revision)
    assert await bucket.get("a.c") is None


async def test_create_refuses_a_key_that_exists_but_not_one_that_was_deleted(bucket: Bucket) -> None:
    await bucket.create("k", b"1")
    with pytest.raises(FencedError):
        await bucket.create("k", b"2")
    await bucket.delete("k")
    assert await bucket.get("k") is None
    await bucket.create("k", b"3")
    entry = await bucket.get("k")
    assert entry is not None
    assert entry.value == b"3"


async def test_update_and_delete_are_refused_once_the_key_has_moved_on(bucket: Bucket) -> None:
    first = await bucket.create("k", b"1")
    second = await bucket.update("k", b"2", first)
    with pytest.raises(FencedError):
        await bucket.update("k", b"3", first)
    with pytest.raises(FencedError):
        await bucket.delete("k", first)
    await bucket.delete("k", second)
    assert await bucket.get("k") is None


async def test_the_marker_of_a_delete_goes_by_itself(bucket: Bucket, store: Store) -> None:
    await bucket.put("k", b"1")
    await bucket.delete("k")
    marker = await store.last("KV_state", "$KV.state.k")
    assert marker is not None
    assert marker.headers["Nats-TTL"] == "3600s"


async def test_entries_lists_a_prefix_without_what_was_deleted(bucket: Bucket) -> None:
    for key in ("mark.1", "mark.2", "mark.3", "site.1"):
        await bucket.put(key, key.encode())
    await bucket.delete("mark.2")
    found = await bucket.entries("mark.")
    assert {key: entry.value for key, entry in found.items()} == {"mark.1": b"mark.1", "mark.3": b"mark.3"}
    assert len(await bucket.entries()) == 3


async def test_a_watch_tells_all_that_is_there_before_it_returns(bucket: Bucket) -> None:
    for number in range(1200):
        await bucket.put(f"k.{number % 600}", str(number).encode())
    seen = Seen()
    watch = await bucket.watch(seen)
    assert len(seen.calls) == 1
    assert seen.state == {f"k.{number - 600}": str(number).encode() for number in range(600, 1200)}
    await watch.close()


async def test_a_watch_of_an_empty_bucket_returns_at_once_and_tells_what_comes(bucket: Bucket) -> None:
    seen = Seen()
    watch = await bucket.watch(seen)
    assert seen.calls == [{}]
    await bucket.put("k", b"1")
    await bucket.put("k", b"2")
    await seen.until({"k": b"2"})
    await bucket.delete("k")
    await seen.until({})
    await watch.close()


async def test_a_watch_hears_after_a_reconnect_what_changed_and_what_went_meanwhile(
    bucket: Bucket, store: Store, nats_server: NatsServer
) -> None:
    for key in ("stays", "changes", "goes", "is-purged"):
        await bucket.put(key, b"old")
    seen = Seen()
    watch = await bucket.watch(seen)
    other = await nats_server.connect()
    # Nothing of this reaches the watch: its consumer is gone.
    (consumer,) = (await other.api("CONSUMER.LIST.KV_state"))["consumers"]
    await other.api(f"CONSUMER.DELETE.KV_state.{consumer['name']}")
    behind = Bucket(other, "state")
    await behind.put("changes", b"new")
    await behind.put("comes", b"new")
    await behind.delete("goes")
    await other.api("STREAM.PURGE.KV_state", {"filter": "$KV.state.is-purged"})
    assert len(seen.calls) == 1
    await nats_server.restart()
    await connected(store)
    await seen.until({"stays": b"old", "changes": b"new", "comes": b"new"})
    assert "stays" not in seen.calls[1]
    await watch.close()


async def test_a_callback_that_fails_does_not_end_the_watch(bucket: Bucket) -> None:
    called = asyncio.Queue[int]()

    def callback(changes: Changes) -> None:
        called.put_nowait(len(changes))
        if changes.keys() == {"bad"}:
            raise ValueError("bad")

    watch = await bucket.watch(callback)
    assert await called.get() == 0
    await bucket.put("bad", b"")
    assert await called.get() == 1
    await bucket.put("good", b"")
    assert await called.get() == 1
    await watch.close()
