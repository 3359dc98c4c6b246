"""The engine on its ordinary way: bundles and tickets are attempted, settled in order, acked."""

import pytest
from tests.support.engine import (
    FAST,
    FakeHandler,
    count,
    emptied,
    last_of,
    mail,
    put,
    running,
    settlements,
    ticket_at,
)

from waypost_queue import subjects
from waypost_queue.store import Store
from waypost_queue.streams import Layout


@pytest.fixture
def layout() -> Layout:
    return FAST


async def test_a_delivered_mail_is_settled_and_its_bundle_acked(store: Store) -> None:
    handler = FakeHandler()
    one, two = mail("a@x.test"), mail("b@y.test", "c@z.test")
    async with running(store, handler):
        await put(store, one, two)
        await emptied(store)
    assert sorted(handler.sent) == sorted([(one.id, 0), (two.id, 0), (two.id, 1)])
    assert {(s.mail, o.index, o.result) for s in await settlements(store) for o in s.outcomes} == {
        (one.id, 0, "delivered"),
        (two.id, 0, "delivered"),
        (two.id, 1, "delivered"),
    }
    assert await count(store, "QUEUE-0") == 0


async def test_a_deferral_becomes_a_ticket_that_is_attempted_when_due(store: Store) -> None:
    handler = FakeHandler()
    handler.answers["a@x.test"] = lambda work, index: "deferred" if work.attempts_made < 2 else "delivered"
    one = mail("a@x.test", "b@x.test")
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert sorted(handler.sent) == [(one.id, 0), (one.id, 1)]
    assert [(w.indexes, w.attempts_made) for w in handler.attempts] == [((0, 1), 0), ((0,), 1), ((0,), 2)]
    assert all(o.result == "delivered" for s in await settlements(store) for o in s.outcomes)
    assert await count(store, "SPOOL-0") == 0, "the body goes with the last of its mail"
