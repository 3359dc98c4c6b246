"""What can't be read, misses its body or kills whoever runs it is held with the reason, and blocks nobody."""

import pytest
from msgspec import structs

from tests.support.engine import (
    FAST,
    FakeHandler,
    count,
    emptied,
    last_of,
    mail,
    put,
    put_ticket,
    running,
    settle,
    subject_of,
    take,
    ticket_at,
    ticket_of,
)
from tests.support.wait import eventually
from waypost_queue import codec, poison
from waypost_queue.kv import Bucket
from waypost_queue.model import Settled, Settlement
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.streams import Layout


@pytest.fixture
def layout() -> Layout:
    return FAST


async def _empty(store: Store, stream: str, subject: str = ">") -> None:
    async def empty() -> bool:
        return await count(store, stream, subject) == 0

    await eventually(empty, 10.0, f"{stream} {subject} is empty")


@pytest.mark.parametrize(
    ("data", "cause"), [(b"no bundle", "poison"), (bytes((codec.MAGIC, codec.FORMAT + 1)) + b"?", "format")]
)
async def test_a_bundle_that_cannot_be_read_is_held_whole(store: Store, data: bytes, cause: str) -> None:
    handler = FakeHandler()
    async with running(store, handler):
        seq = (await store.publish("intake0.default.fast.odd", data)).seq
        one = mail("a@x.test")
        await put(store, one)
        await _empty(store, "INTAKE-0")
    held = await store.last("QUEUE-0", f"q0.hold.default.fast.=.bundle-{seq}.0")
    assert held is not None
    assert held.data == data
    assert held.headers[poison.CAUSE_HEADER] == cause
    assert held.headers[poison.REASON_HEADER]
    assert handler.sent == [(one.id, 0)], "it blocks nobody"


async def test_a_ticket_that_cannot_be_read_is_held_in_its_place(store: Store) -> None:
    handler = FakeHandler()
    ticket = ticket_of(mail("a@x.test"), "x.test")
    async with running(store, handler):
        await store.publish(subject_of(ticket), b"W\x01broken")
        await _empty(store, "QUEUE-0", "q0.ready.>")
    held = await last_of(store, ticket.mail, "x.test")
    assert held is not None
    assert held.subject == subject_of(ticket, "hold")
    assert held.data == b"W\x01broken"
    assert held.headers[poison.CAUSE_HEADER] == "poison"


async def test_a_ticket_without_its_body_is_held(store: Store) -> None:
    handler = FakeHandler()
    one = mail("a@x.test")
    async with running(store, handler):
        await put_ticket(store, ticket_of(one, "x.test"))
        await _empty(store, "QUEUE-0", "q0.ready.>")
    hold = (await ticket_at(store, one, "x.test")).hold
    assert hold is not None
    assert hold.cause == "body"


async def test_a_large_mail_without_its_body_is_held(store: Store) -> None:
    handler = FakeHandler()
    one = structs.replace(mail("a@x.test"), content=None, chunks=2)
    async with running(store, handler):
        await put(store, one)
        await _empty(store, "INTAKE-0")
    hold = (await ticket_at(store, one, "x.test")).hold
    assert hold is not None
    assert hold.cause == "body"


async def test_a_bundle_delivered_for_the_third_time_becomes_one_ticket_a_group(store: Store) -> None:
    one, two = mail("a@x.test", "b@y.test"), mail("c@x.test")
    seq = await put(store, one, two)
    await take(store, "bundle", "fast")
    await take(store, "bundle", "fast")
    await settle(store, Settlement(mail=two.id, n=0, outcomes=(Settled(index=0, result="delivered"),)))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert sorted(handler.sent) == [(one.id, 0), (one.id, 1)]
    tickets = [work.ticket for work in handler.attempts]
    assert all(ticket is not None and ticket.marked and ticket.bundle == seq for ticket in tickets)
    assert await count(store, "SPOOL-0") == 0


async def test_a_ticket_that_comes_back_time_and_again_runs_alone(store: Store) -> None:
    one = mail("a@x.test")
    await Spool(store).put(one.id, one.content or b"")
    await put_ticket(store, structs.replace(ticket_of(one, "x.test"), returned=1))
    await take(store, "ticket", "bulk03")
    handler = FakeHandler()
    state = Bucket(store, "state")
    handler.gate.clear()
    async with running(store, handler):
        await handler.until(lambda: len(handler.attempts) == 1)
        ticket = handler.attempts[0].ticket
        assert ticket is not None
        assert ticket.alone
        assert await state.get(f"alone.{one.id}.0") is not None
        other = mail("b@y.test")
        await put(store, other)

        async def in_hand() -> bool:
            info = await store.api("CONSUMER.INFO.INTAKE-0.default-fast")
            return info["num_ack_pending"] == 1

        await eventually(in_hand)
        assert len(handler.attempts) == 1, "nothing else is attempted meanwhile"
        handler.gate.set()
        await emptied(store)
    assert sorted(handler.sent) == sorted([(one.id, 0), (other.id, 0)])
    assert await state.get(f"alone.{one.id}.0") is None


async def test_a_ticket_whose_worker_died_while_it_ran_alone_is_held(store: Store) -> None:
    one = mail("a@x.test")
    await Spool(store).put(one.id, one.content or b"")
    await Bucket(store, "state").put(f"alone.{one.id}.0", b"")
    await put_ticket(store, structs.replace(ticket_of(one, "x.test"), alone=True, returned=2))
    await take(store, "ticket", "bulk03")
    handler = FakeHandler()
    async with running(store, handler):
        await _empty(store, "QUEUE-0", "q0.ready.>")
    assert handler.attempts == []
    hold = (await ticket_at(store, one, "x.test")).hold
    assert hold is not None
    assert hold.cause == "poison"
    assert await Bucket(store, "state").get(f"alone.{one.id}.0") is None, "a release lets it run once more"


async def test_a_ticket_whose_attempt_raises_alone_is_held(store: Store) -> None:
    one = mail("a@x.test")
    await Spool(store).put(one.id, one.content or b"")
    handler = FakeHandler()
    handler.answers["a@x.test"] = "raise"
    async with running(store, handler):
        await put_ticket(store, structs.replace(ticket_of(one, "x.test"), alone=True, returned=2))

        async def held() -> bool:
            return await count(store, "QUEUE-0", "q0.hold.>") == 1

        await eventually(held, 10.0, "it is held")
    hold = (await ticket_at(store, one, "x.test")).hold
    assert hold is not None
    assert "RuntimeError" in hold.reason
