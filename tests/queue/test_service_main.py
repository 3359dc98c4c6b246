"""The queue service as processes: one is active, another takes over, and mail's requests are answered throughout."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.queue.service_parts import defer, entries, mail, ticket
from tests.support.nats import NatsServer, connected
from tests.support.wait import eventually
from waypost_queue import codec, control, listing
from waypost_queue.config import DomainConfig, Meta, Snapshot
from waypost_queue.configwatch import publish
from waypost_queue.errors import ApiError, StoreError
from waypost_queue.events import EventBatch
from waypost_queue.listing import QueueStatistics
from waypost_queue.model import ControlRequest
from waypost_queue.store import Store


@asynccontextmanager
async def instance(
    server: NatsServer, name: str, folder: Path, **more: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`waypost serve queue`."""
    with (folder / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys; from waypost_queue.service.main import main; sys.exit(main())",
            env={
                **os.environ,
                "WAYPOST_NATS_URL": server.url,
                "WAYPOST_INSTANCE": name,
                "WAYPOST_STORE_BYTES": str(1 << 30),
                "WAYPOST_ALLOW_WEAK_DURABILITY": "true",
                **more,
            },
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def told(store: Store) -> QueueStatistics | None:
    try:
        return await listing.statistics(store)
    except StoreError:
        return None


async def active(store: Store, name: str, timeout: float = 20.0) -> None:
    async def is_active() -> bool:
        statistics = await told(store)
        return statistics is not None and statistics.by == name

    await eventually(is_active, timeout, f"{name} is active")


async def test_an_empty_server_becomes_a_queue_and_a_second_instance_takes_over_when_the_first_ends(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    store = await nats_server.connect()
    with pytest.raises(ApiError):
        await store.api("STREAM.INFO.QUEUE-0")
    async with instance(nats_server, "one", tmp_path) as one:
        await active(store, "one")
        async with instance(nats_server, "two", tmp_path) as two:
            of = ticket(mail())
            await defer(store, of)
            answer = await control.act(store, ControlRequest(action="hold", mail=of.mail.id, by="ada"))
            assert (answer.acted, answer.error) == (1, "")
            assert "hold" in await entries(store, of.mail)
            one.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(one.wait(), 10) == 0
            await active(store, "two", 5)  # the lease is given up, not waited out
            answer = await control.act(store, ControlRequest(action="delete", mail=of.mail.id, by="ada"))
            assert answer.acted == 1
            two.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(two.wait(), 10) == 0
    noted = []
    async for stored in store.direct("EVENTS", "events.queue"):
        noted += [(event.kind, event.by) for event in codec.decode(stored.data, EventBatch).events]
    assert ("action", "ada") in noted
    assert ("held", "ada") in noted


async def test_it_leads_again_after_the_server_was_killed_and_sees_a_suspension_end(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    from tests.queue.service_parts import hold

    store = await nats_server.connect()
    async with instance(nats_server, "one", tmp_path) as one:
        await active(store, "one")
        suspended = DomainConfig(domain="example.test", namespace="shop", suspend="All")
        before = Snapshot(domains={"example.test": suspended}, meta=Meta(generation=1))
        await publish(store, None, before)
        of = ticket(mail())
        await hold(store, of, "suspended", "domain:example.test")
        await nats_server.restart()
        await connected(store)
        await active(store, "one")
        assert one.returncode is None
        assert "hold" in await entries(store, of.mail)
        resumed = DomainConfig(domain="example.test", namespace="shop")
        await publish(store, before, Snapshot(domains={"example.test": resumed}, meta=Meta(generation=2)))

        async def freed() -> bool:
            return "ready" in await entries(store, of.mail)

        await eventually(freed, 10, "the release")


async def test_it_says_why_it_does_not_start_on_a_server_that_may_lose_mail(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    async with instance(nats_server, "one", tmp_path, WAYPOST_ALLOW_WEAK_DURABILITY="false") as one:
        assert await asyncio.wait_for(one.wait(), 20) == 1
    assert "WAYPOST_NATS_SYSTEM_USER" in (tmp_path / "one.log").read_text()
