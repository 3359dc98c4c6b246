"""Bodies in the spool: whole or missing, stored once, read past a replica that is behind."""

import os
from collections.abc import AsyncIterator

import pytest

from tests.support.nats import NatsServer
from waypost_queue import ids
from waypost_queue.errors import FullError, UnavailableError
from waypost_queue.model import CHUNK, Mail
from waypost_queue.spool import Spool
from waypost_queue.store import Store, Stored
from waypost_queue.streams import Layout
from waypost_queue.work import BodyMissingError

MAIL = ids.mail_id(1_700_000_000, 0)


@pytest.fixture
def spool(store: Store) -> Spool:
    return Spool(store)


def spooled(size: int, chunks: int) -> Mail:
    return Mail(id=MAIL, sender="", recipients=(), size=size, accepted=0.0, chunks=chunks)


async def chunks_in(store: Store) -> int:
    messages: int = (await store.api("STREAM.INFO.SPOOL-0"))["state"]["messages"]
    return messages


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK + 7])
async def test_a_body_comes_back_as_it_was(spool: Spool, size: int) -> None:
    body = os.urandom(size)
    chunks = await spool.put(MAIL, body)
    assert chunks == max(1, -(-size // CHUNK))
    assert await spool.get(spooled(size, chunks)) == body


async def test_putting_a_body_again_stores_nothing_more(spool: Spool, store: Store) -> None:
    body = os.urandom(3 * CHUNK)
    await spool.put(MAIL, body)
    await spool.put(MAIL, body)
    assert await chunks_in(store) == 3
    assert await spool.get(spooled(len(body), 3)) == body


async def test_a_chunk_that_is_missing_is_said_by_number(spool: Spool, store: Store) -> None:
    await spool.put(MAIL, b"x" * (3 * CHUNK))
    await store.api("STREAM.PURGE.SPOOL-0", {"filter": f"spool0.{MAIL}.1"})
    with pytest.raises(BodyMissingError, match="chunk 1 of 3"):
        await spool.get(spooled(3 * CHUNK, 3))


async def test_a_body_of_another_size_is_no_body(spool: Spool) -> None:
    await spool.put(MAIL, b"x" * 10)
    with pytest.raises(BodyMissingError, match="10 octets in SPOOL-0, not 11"):
        await spool.get(spooled(11, 1))


async def test_what_a_replica_does_not_have_is_asked_of_the_leader(
    spool: Spool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = os.urandom(3 * CHUNK)
    await spool.put(MAIL, body)
    direct = store.direct

    async def behind(*args: object, **kwargs: object) -> AsyncIterator[Stored]:
        async for stored in direct(*args, **kwargs):
            if not stored.subject.endswith(".1"):
                yield stored

    monkeypatch.setattr(store, "direct", behind)
    assert await spool.get(spooled(len(body), 3)) == body


async def test_a_mail_with_its_content_needs_no_spool(spool: Spool, nats_server: NatsServer) -> None:
    await nats_server.kill()
    mail = Mail(id=MAIL, sender="", recipients=(), size=2, accepted=0.0, content=b"hi")
    assert await spool.get(mail) == b"hi"


async def test_a_purge_takes_the_body_and_no_other(spool: Spool, store: Store) -> None:
    other = ids.mail_id(1_700_000_001, 0)
    await spool.put(MAIL, b"x" * (2 * CHUNK))
    await spool.put(other, b"y")
    await spool.purge(MAIL)
    assert await chunks_in(store) == 1
    with pytest.raises(BodyMissingError):
        await spool.get(spooled(2 * CHUNK, 2))
    assert await spool.read(other, 1, 1) == b"y"


async def test_reading_while_the_server_is_away_does_not_say_missing(spool: Spool, nats_server: NatsServer) -> None:
    await spool.put(MAIL, b"x")
    await nats_server.kill()
    with pytest.raises(UnavailableError):
        await spool.get(spooled(1, 1))


class TestFull:
    """SPOOL holds 1.4 MiB in these."""

    @pytest.fixture
    def layout(self) -> Layout:
        return Layout(store_bytes=4 << 20)

    async def test_a_body_that_does_not_fit_is_refused_as_full(self, spool: Spool) -> None:
        with pytest.raises(FullError):
            await spool.put(MAIL, b"x" * (4 * CHUNK))
