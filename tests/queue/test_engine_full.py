"""A full store: nothing is attempted whose outcome could not be stored, and nothing is lost."""

import asyncio

import pytest

from tests.support.engine import (
    FAST,
    FakeHandler,
    count,
    emptied,
    mail,
    put,
    running,
    ticket_at,
)
from waypost_queue import ids
from waypost_queue.errors import FullError
from waypost_queue.store import PubAck, Store
from waypost_queue.streams import Layout


@pytest.fixture
def layout() -> Layout:
    return FAST


class Full:
    """Refuses publishes to subjects with a prefix, as a full server does, until it is opened."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, *prefixes: str) -> None:
        self.prefixes = prefixes
        self.refused = asyncio.Event()
        publish = store.publish

        async def refusing(subject: str, *rest: object, **more: object) -> PubAck:
            if subject.startswith(self.prefixes) and self.prefixes:
                self.refused.set()
                raise FullError(subject, 503, 10023, "insufficient resources")
            return await publish(subject, *rest, **more)

        monkeypatch.setattr(store, "publish", refusing)

    def open(self) -> None:
        self.prefixes = ()


async def test_no_attempt_begins_while_outcomes_cannot_be_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = FakeHandler()
    full = Full(store, monkeypatch, "settle0")
    one, two = mail("a@x.test"), mail("b@x.test")
    async with running(store, handler) as engine:
        await put(store, one)
        await full.refused.wait()
        await put(store, two)
        assert engine.stats().store_full
        async with asyncio.timeout(5):
            while engine.stats().store_full and len(handler.attempts) == 1:
                if handler.attempts[0].now + 2.5 < _now(engine):
                    break  # longer than `ack_wait`
                await asyncio.sleep(0.05)
        assert [work.mail.id for work in handler.attempts] == [one.id], "the second waits"
        full.open()
        await emptied(store)
    assert handler.sent == [(one.id, 0), (two.id, 0)]


def _now(engine) -> float:
    return engine._shards[0][2].now()


async def test_a_ticket_is_stored_once_there_is_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = FakeHandler()
    handler.answers["a@x.test"] = lambda work, index: "delivered" if work.ticket else "deferred"
    full = Full(store, monkeypatch, "q0.")
    one = mail("a@x.test")
    async with running(store, handler):
        await put(store, one)
        await full.refused.wait()
        full.open()
        await emptied(store)
    assert handler.sent == [(one.id, 0)]
    assert len(handler.attempts) == 2


async def test_a_small_body_stays_in_its_ticket_when_the_spool_is_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = FakeHandler()
    handler.answers["a@x.test"] = "deferred"
    handler.retry_in = 3600
    Full(store, monkeypatch, "spool0.")
    one = mail("a@x.test")
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: len(handler.done) == 1)
    assert (await ticket_at(store, one, "x.test")).mail.content == one.content


async def test_a_dsn_that_intake_refuses_is_owed_by_a_ticket_and_stored_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost_queue.settling.OWED_AGAIN", 0.3)
    monkeypatch.setattr("waypost_queue.engine.OWED_AGAIN", 0.3)
    handler = FakeHandler()
    handler.answers["a@x.test"] = "failed"
    one = mail("a@x.test", "b@x.test")
    dsn = ids.dsn_id(one.id, (0,), "failure")
    async with running(store, handler):
        await put(store, one)
        full = Full(store, monkeypatch, "intake0.default.prio.")
        await full.refused.wait()
        await handler.until(lambda: len(handler.done) == 1)
        ticket = await ticket_at(store, one, "x.test")
        assert [report.id for report in ticket.dsn_owed] == [dsn]
        assert ticket.indexes == ()
        full.open()
        await emptied(store)
    assert sorted(handler.sent) == sorted([(one.id, 1), (dsn, 0)])
    assert await count(store, "QUEUE-0") == 0
