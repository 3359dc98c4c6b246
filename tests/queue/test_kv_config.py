"""Configuration in KV: seen whole, kept when a new value is bad, a gone domain kept for its queued mail."""

import asyncio

import pytest

from tests.support.nats import NatsServer, connected
from waypost_queue import codec, configwatch
from waypost_queue.config import CredentialConfig, DestinationConfig, DomainConfig, Meta, Sender, Snapshot, Subject
from waypost_queue.configwatch import ConfigWatch, publish
from waypost_queue.kv import Bucket
from waypost_queue.store import Store

DOMAIN = DomainConfig(
    domain="example.com",
    namespace="shop",
    senders=(Sender(name="app", subjects=(Subject(kind="Network", cidr="10.0.0.0/8"),), addresses=("*@example.com",)),),
)
CREDENTIAL = CredentialConfig(
    username="app@example.com", domain="example.com", namespace="shop", secret="smtp", hash="$argon2id$x"
)
POLICY = DestinationConfig(name="default")


def snapshot(generation: int, *domains: DomainConfig, credentials: bool = True) -> Snapshot:
    return Snapshot(
        domains={domain.domain: domain for domain in domains},
        credentials={CREDENTIAL.username: CREDENTIAL} if credentials else {},
        policies={"default": POLICY},
        meta=Meta(generation=generation),
    )


class Changes:
    """The snapshots that a watch told."""

    def __init__(self, watch: ConfigWatch) -> None:
        self._told: asyncio.Queue[Snapshot] = asyncio.Queue()
        watch.on_change(self._told.put_nowait)

    async def next(self) -> Snapshot:
        async with asyncio.timeout(20):
            return await self._told.get()


async def test_what_was_published_is_there_after_the_first_load(store: Store) -> None:
    new = snapshot(1, DOMAIN)
    await publish(store, None, new)
    watch = ConfigWatch(store)
    await watch.start()
    assert watch.snapshot == new
    await watch.close()


async def test_a_change_of_several_keys_is_seen_as_one(store: Store) -> None:
    first = snapshot(1, DOMAIN)
    await publish(store, None, first)
    watch = ConfigWatch(store)
    await watch.start()
    changes = Changes(watch)
    second = snapshot(2, *(DomainConfig(domain=f"d{i}.example", namespace="n") for i in range(20)), DOMAIN)
    await publish(store, first, second)
    assert await changes.next() == second
    await watch.close()


async def test_a_change_whose_writer_died_before_meta_is_seen_a_moment_later(store: Store) -> None:
    watch = ConfigWatch(store)
    await watch.start()
    changes = Changes(watch)
    await Bucket(store, "config").put("domain.example_com", codec.encode(DOMAIN))
    assert (await changes.next()).domains == {"example.com": DOMAIN}
    await watch.close()


async def test_a_gone_domain_stays_as_deleted_and_a_gone_credential_goes(store: Store) -> None:
    first = snapshot(1, DOMAIN)
    await publish(store, None, first)
    watch = ConfigWatch(store)
    await watch.start()
    changes = Changes(watch)
    await publish(store, first, snapshot(2, credentials=False))
    seen = await changes.next()
    assert seen.credentials == {}
    assert seen.domains["example.com"].deleted
    assert seen.domains["example.com"].senders == ()
    await watch.close()


async def test_a_deleted_domain_goes_for_good_when_a_writer_starts_30_days_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(store, None, snapshot(1, DOMAIN))
    await publish(store, None, snapshot(2))
    bucket = Bucket(store, "config")
    await publish(store, None, snapshot(2))
    assert await bucket.get("domain.example_com") is not None
    monkeypatch.setattr(configwatch, "DELETED_KEPT", 0.0)
    await publish(store, None, snapshot(3))
    assert await bucket.get("domain.example_com") is None


async def test_publishing_the_same_again_writes_nothing(store: Store) -> None:
    await publish(store, None, snapshot(1, DOMAIN))
    before = (await store.api("STREAM.INFO.KV_config"))["state"]["last_seq"]
    await publish(store, None, snapshot(1, DOMAIN))
    await publish(store, snapshot(1, DOMAIN), snapshot(1, DOMAIN))
    assert (await store.api("STREAM.INFO.KV_config"))["state"]["last_seq"] == before


async def test_a_value_that_cannot_be_decoded_leaves_the_last_good_one_in_force(store: Store) -> None:
    await publish(store, None, snapshot(1, DOMAIN))
    watch = ConfigWatch(store)
    await watch.start()
    changes = Changes(watch)
    bucket = Bucket(store, "config")
    await bucket.put("domain.example_com", b"garbage")
    await bucket.put("policy.default", bytes((codec.MAGIC, codec.FORMAT + 1)))
    await bucket.put("from-the-future.x", b"?")
    await bucket.put("meta", codec.encode(Meta(generation=2)))
    seen = await changes.next()
    assert seen.domains == {"example.com": DOMAIN}
    assert seen.policies == {"default": POLICY}
    assert seen.meta.generation == 2
    await watch.close()


async def test_a_restart_of_the_server_does_not_stop_the_watch(store: Store, nats_server: NatsServer) -> None:
    first = snapshot(1, DOMAIN)
    await publish(store, None, first)
    watch = ConfigWatch(store)
    await watch.start()
    changes = Changes(watch)
    await nats_server.restart()
    await connected(store)
    await publish(store, first, snapshot(2, DOMAIN, credentials=False))
    while (await changes.next()).meta.generation != 2:
        pass
    assert watch.snapshot.credentials == {}
    await watch.close()
