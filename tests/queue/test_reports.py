"""DSNs where two owners of one group both had an answer: each recipient is told about once, and none is forgotten."""

import time

import pytest
from msgspec import structs

from tests.support.engine import FakeHandler, emptied, mail, put, put_ticket, running, settle, take, ticket_of
from waypost_queue import ids
from waypost_queue.model import Mail, Report, Settled, Settlement
from waypost_queue.store import Store


def failed(one: Mail, *indexes: int) -> Settlement:
    outcomes = tuple(Settled(index=index, result="failed") for index in indexes)
    report = Report(id=ids.dsn_id(one.id, indexes, "failure"), kind="failure", recipients=outcomes)
    return Settlement(mail=one.id, n=0, outcomes=outcomes, owed=(report,))


def delivered(one: Mail, settlement: Settlement) -> Settlement:
    """The DSN that a settlement owes has been stored, and delivered."""
    return Settlement(mail=settlement.owed[0].id, n=0, outcomes=(Settled(index=0, result="delivered"),))


def told(handler: FakeHandler) -> list[tuple[str, tuple[int, ...]]]:
    return [(report.id, tuple(settled.index for settled in report.recipients)) for report in handler.reports]


@pytest.mark.parametrize(("first", "left"), [((1,), (0,)), ((0,), (1,))])
async def test_who_was_told_about_is_not_told_about_again_and_the_others_are(
    store: Store, first: tuple[int, ...], left: tuple[int, ...]
) -> None:
    one = mail("a@x.test", "b@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    ours = failed(one, *first)
    await settle(store, ours, failed(one, 0, 1), delivered(one, ours))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert told(handler) == [(ids.dsn_id(one.id, left, "failure"), left)]


async def test_two_reports_that_nobody_stored_share_their_recipients(store: Store) -> None:
    one = mail("a@x.test", "b@x.test", "c@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    await settle(store, failed(one, 1), failed(one, 0, 1, 2))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert [indexes for _, indexes in told(handler)] == [(1,), (0, 2)]


async def test_a_ticket_tells_only_about_whom_it_is_for(store: Store) -> None:
    one = mail("a@x.test", "b@x.test")
    whole = ticket_of(one, "x.test", marked=True, origin_seq=1, origin_time=time.time())
    ticket = structs.replace(
        whole, mail=structs.replace(whole.mail, recipients=whole.mail.recipients[:1]), indexes=(0,)
    )
    await settle(store, failed(one, 0, 1))  # of an owner that woke late; whoever made the ticket delivered to b
    await put_ticket(store, ticket)
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert told(handler) == [(ids.dsn_id(one.id, (0,), "failure"), (0,))]
