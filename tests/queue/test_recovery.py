"""Delivered again: each step of recovery, by what happens to a mail when it is left out."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

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
    settlements,
    subject_of,
    take,
    ticket_at,
    ticket_of,
)
from tests.support.nats import NatsServer, connected
from tests.support.wait import eventually
from waypost_queue import codec, ids, pause, subjects
from waypost_queue.errors import FencedError
from waypost_queue.model import Bundle, Report, Settled, Settlement
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.streams import Layout
from waypost_queue.tickets import fence


@pytest.fixture
def layout() -> Layout:
    return FAST


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], None]:
    """`points(name, act)`: act once when the engine passes that point."""

    def at(name: str, act: Callable[[], None]) -> None:
        armed = [True]

        def hook(reached: str) -> None:
            if reached == name and armed:
                armed.clear()
                act()

        monkeypatch.setattr(pause, "hook", hook)

    return at


def elsewhere(server: NatsServer, act: Callable[[Store], Awaitable[None]]) -> None:
    """Another worker acts, on a connection of its own, while this one stands still."""

    async def run() -> None:
        other = await server.connect("other")
        await act(other)
        await other.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()


def delivered(mail_id: str, *indexes: int, n: int = 0, owed: tuple[Report, ...] = ()) -> Settlement:
    outcomes = tuple(Settled(index=i, result="delivered") for i in indexes)
    return Settlement(mail=mail_id, n=n, outcomes=outcomes, owed=owed)


def failed(mail_id: str, index: int) -> Settlement:
    outcome = Settled(index=index, result="failed")
    report = Report(id=ids.dsn_id(mail_id, (index,), "failure"), kind="failure", recipients=(outcome,))
    return Settlement(mail=mail_id, n=0, outcomes=(outcome,), owed=(report,))


async def test_a_fault_of_the_handler_lets_the_message_come_back(store: Store) -> None:
    handler = FakeHandler()
    answers = iter(["raise"])
    handler.answers["a@x.test"] = lambda work, index: next(answers, "delivered")
    one = mail("a@x.test")
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert handler.sent == [(one.id, 0)]
    assert len(handler.attempts) == 2


async def test_a_bundle_is_not_acked_while_one_of_its_groups_is_unsettled(store: Store) -> None:
    handler = FakeHandler()
    answers = iter(["raise"])
    handler.answers["b@y.test"] = lambda work, index: next(answers, "delivered")
    one = mail("a@x.test", "b@y.test")
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert sorted(handler.sent) == [(one.id, 0), (one.id, 1)]


async def test_recipients_with_an_outcome_are_not_attempted_again(store: Store) -> None:
    one = mail("a@x.test", "b@x.test", "c@y.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    await settle(store, delivered(one.id, 0), delivered(one.id, 2, n=2))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert handler.sent == [(one.id, 1)]
    assert all(work.recovered for work in handler.attempts)


async def test_a_message_that_may_have_been_delivered_before_the_connection_is_recovered(store: Store) -> None:
    one = mail("a@x.test")
    await put(store, one)
    await settle(store, delivered(one.id, 0))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert handler.attempts == []


async def test_a_marked_bundle_is_recovered_from_its_originals_time(store: Store) -> None:
    one = mail("a@x.test", "b@x.test")
    await settle(store, delivered(one.id, 0))
    handler = FakeHandler()
    async with running(store, handler):
        await put(store, one, marked=True, origin_seq=1, origin_time=time.time() - 3600)
        await emptied(store)
    assert handler.sent == [(one.id, 1)]
    assert handler.attempts[0].stored_at < time.time() - 3000


async def test_a_group_with_a_successor_is_done(store: Store) -> None:
    one = mail("a@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    ticket = ticket_of(one, "x.test")
    headers = {"Nats-Schedule": "@at 2099-01-01T00:00:00.000Z", "Nats-Schedule-Target": subject_of(ticket)}
    await store.publish(subject_of(ticket, "sched"), codec.encode(ticket), headers)
    handler = FakeHandler()
    async with running(store, handler):

        async def acked() -> bool:
            return await count(store, "INTAKE-0") == 0

        await eventually(acked)
    assert handler.attempts == []
    assert await ticket_at(store, one, "x.test") == ticket


async def test_a_ticket_that_is_done_while_recovery_looks_is_not_missed(
    nats_server: NatsServer, store: Store, points: Callable[[str, Callable[[], None]], None]
) -> None:
    """First the groups, then the scan: the ticket is seen, or its outcome is."""
    one = mail("a@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    ticket = ticket_of(one, "x.test")
    headers = {"Nats-Schedule": "@at 2099-01-01T00:00:00.000Z", "Nats-Schedule-Target": subject_of(ticket)}
    seq = (await store.publish(subject_of(ticket, "sched"), codec.encode(ticket), headers)).seq

    async def finish(other: Store) -> None:
        await settle(other, delivered(one.id, 0))
        await other.api("STREAM.MSG.DELETE.QUEUE-0", {"seq": seq, "no_erase": True})

    points("rec_between", lambda: elsewhere(nats_server, finish))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert handler.attempts == []


async def test_an_outcome_that_comes_while_recovery_looks_is_seen(
    nats_server: NatsServer, store: Store, points: Callable[[str, Callable[[], None]], None]
) -> None:
    one = mail("a@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    points("rec_between", lambda: elsewhere(nats_server, lambda other: settle(other, delivered(one.id, 0))))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert handler.attempts == []


async def test_a_ticket_that_came_and_went_between_the_look_and_the_guard_leaves_its_outcome(
    nats_server: NatsServer, store: Store, points: Callable[[str, Callable[[], None]], None]
) -> None:
    """The guard is fenced on "none", which is true again by then."""
    one = mail("a@x.test", "b@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    points("rec_after_scan", lambda: elsewhere(nats_server, lambda other: settle(other, delivered(one.id, 0))))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert handler.sent == [(one.id, 1)]


async def test_of_many_groups_too_an_outcome_that_comes_while_recovery_looks_is_seen(
    nats_server: NatsServer, store: Store, points: Callable[[str, Callable[[], None]], None]
) -> None:
    """SETTLE is scanned first then, to look up fewer of them; what has come since counts as well."""
    mails = [mail(f"a{i}@x.test") for i in range(20)]
    await put(store, *mails)
    await take(store, "bundle", "fast")
    points("rec_between", lambda: elsewhere(nats_server, lambda other: settle(other, delivered(mails[7].id, 0))))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert sorted(handler.sent) == sorted((each.id, 0) for each in mails if each is not mails[7])


async def test_a_guard_bars_the_earlier_owners_late_ticket(store: Store) -> None:
    one = mail("a@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    handler = FakeHandler()
    handler.answers["a@x.test"] = lambda work, index: "delivered" if work.ticket else "deferred"
    handler.gate.clear()
    async with running(store, handler):
        await handler.until(lambda: len(handler.attempts) == 1)
        late = ticket_of(one, "x.test")
        headers = {
            "Nats-Schedule": "@at 2099-01-01T00:00:00.000Z",
            "Nats-Schedule-Target": subject_of(late),
            **fence(0, subjects.group_any(0, "x.test", one.id, 0)),
        }
        with pytest.raises(FencedError):
            await store.publish(subject_of(late, "sched"), codec.encode(late), headers)
        handler.gate.set()
        await emptied(store)
    assert handler.sent == [(one.id, 0)]
    assert await count(store, "SPOOL-0") == 0, "a guard keeps no body"


@pytest.mark.parametrize("number", [1, 12], ids=["alone", "in-a-batch"])
async def test_a_group_whose_ticket_came_after_the_look_is_left_to_it(
    nats_server: NatsServer, store: Store, points: Callable[[str, Callable[[], None]], None], number: int
) -> None:
    """The earlier owner was faster than the guard, which is fenced on what recovery saw."""
    mails = [mail(f"a{i}@x.test") for i in range(number)]
    overtaken = mails[0]
    ticket = ticket_of(overtaken, "x.test")
    headers = {"Nats-Schedule": "@at 2099-01-01T00:00:00.000Z", "Nats-Schedule-Target": subject_of(ticket)}

    async def store_it(other: Store) -> None:
        await other.publish(subject_of(ticket, "sched"), codec.encode(ticket), headers)

    await put(store, *mails)
    await take(store, "bundle", "fast")
    points("rec_after_scan", lambda: elsewhere(nats_server, store_it))
    handler = FakeHandler()
    async with running(store, handler):

        async def acked() -> bool:
            return await count(store, "INTAKE-0") == 0

        await eventually(acked)
    assert sorted(handler.sent) == sorted((each.id, 0) for each in mails[1:])
    assert await ticket_at(store, overtaken, "x.test") == ticket


async def test_many_guards_in_one_batch_each_fence_their_own_group(store: Store) -> None:
    mails = [mail(f"a{i}@x.test") for i in range(20)]
    await put(store, *mails)
    await take(store, "bundle", "fast")
    await settle(store, delivered(mails[3].id, 0))
    handler = FakeHandler()
    for each in mails:
        handler.answers[each.recipients[0].address] = lambda work, i: "delivered" if work.ticket else "deferred"
    async with running(store, handler):
        await emptied(store)
    assert sorted(handler.sent) == sorted((each.id, 0) for each in mails if each is not mails[3])
    assert len(handler.attempts) == 38, "each once out of the bundle and once as a ticket: no fence was wrong"


async def test_a_returned_ticket_is_replaced_by_a_marked_successor_and_not_attempted_itself(store: Store) -> None:
    one = mail("a@x.test")
    await Spool(store).put(one.id, one.content or b"")
    ticket = ticket_of(one, "x.test")
    seq = await put_ticket(store, ticket)
    await take(store, "ticket", "bulk03")
    handler = FakeHandler()
    handler.gate.clear()
    async with running(store, handler):
        await handler.until(lambda: len(handler.attempts) == 1)
        work = handler.attempts[0]
        assert work.ticket is not None
        assert work.ticket.marked
        assert work.ticket.origin_seq == seq
        assert work.ticket.returned == 1
        assert work.stored_at == work.ticket.origin_time > 0
        late = {
            "Nats-Schedule": "@at 2099-01-01T00:00:00.000Z",
            "Nats-Schedule-Target": subject_of(ticket),
            **fence(seq, subjects.group_any(0, "x.test", one.id, 0)),
        }
        with pytest.raises(FencedError):
            await store.publish(subject_of(ticket, "sched"), codec.encode(ticket), late)
        handler.gate.set()
        await emptied(store)
    assert handler.sent == [(one.id, 0)]
    assert await count(store, "SPOOL-0") == 0


async def test_the_mark_stays_for_the_rest_of_a_tickets_life(store: Store) -> None:
    one = mail("a@x.test", "b@x.test")
    await Spool(store).put(one.id, one.content or b"")
    await put_ticket(store, ticket_of(one, "x.test"))
    await take(store, "ticket", "bulk03")
    handler = FakeHandler()
    handler.answers["a@x.test"] = lambda work, index: "deferred" if work.attempts_made < 3 else "delivered"
    async with running(store, handler):
        await handler.until(lambda: len(handler.attempts) >= 2)
        await emptied(store)
    assert [work.ticket.marked for work in handler.attempts if work.ticket] == [True, True, True]
    assert [work.indexes for work in handler.attempts] == [(0, 1), (0,), (0,)]


async def test_a_late_outcome_of_an_earlier_owner_reaches_a_marked_ticket(
    nats_server: NatsServer, store: Store, points: Callable[[str, Callable[[], None]], None]
) -> None:
    """The earlier owner was stopped, and writes what became of its attempt when the successor is already scheduled."""
    one = mail("a@x.test")
    await Spool(store).put(one.id, one.content or b"")
    await put_ticket(store, ticket_of(one, "x.test"))
    await take(store, "ticket", "bulk03")
    points("retaken", lambda: elsewhere(nats_server, lambda other: settle(other, delivered(one.id, 0))))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert handler.attempts == []


async def test_an_owed_dsn_is_stored_by_recovery(store: Store) -> None:
    one = mail("a@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    await settle(store, failed(one.id, 0))
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    dsn = ids.dsn_id(one.id, (0,), "failure")
    assert [report.id for report in handler.reports] == [dsn]
    assert handler.sent == [(dsn, 0)]


async def _in_intake(store: Store, dsn: str) -> None:
    payload = codec.encode(Bundle(mails=(mail("sender@example.org", ident=dsn, kind="dsn"),)))
    await store.publish(subjects.intake(0, "other", "prio", dsn), payload)


async def _in_queue(store: Store, dsn: str) -> None:
    ticket = ticket_of(mail("sender@example.org", ident=dsn, kind="dsn"), "example.org")
    headers = {"Nats-Schedule": "@at 2099-01-01T00:00:00.000Z", "Nats-Schedule-Target": subject_of(ticket)}
    await store.publish(subject_of(ticket, "hold"), codec.encode(ticket), headers)


async def _done(store: Store, dsn: str) -> None:
    await settle(store, delivered(dsn, 0))


@pytest.mark.parametrize("where", [_in_intake, _in_queue, _done])
async def test_a_dsn_that_is_stored_already_is_not_stored_again(
    store: Store, where: Callable[[Store, str], Awaitable[None]]
) -> None:
    one, other = mail("a@x.test"), mail("b@y.test")
    await put(store, one, other)
    await take(store, "bundle", "fast")
    await settle(store, failed(one.id, 0))
    await where(store, ids.dsn_id(one.id, (0,), "failure"))
    handler = FakeHandler()
    async with running(store, handler):
        await handler.until(lambda: len(handler.done) == 1)
    assert handler.reports == []
    assert handler.sent == [(other.id, 0)]


async def test_what_was_settled_while_the_process_stood_still_is_not_sent_again(
    store: Store, points: Callable[[str, Callable[[], None]], None]
) -> None:
    """Stopped past `ack_wait` after the remote's 250: no ack, but the outcome is true and is written."""
    points("after_send", lambda: time.sleep(FAST.timing.ack_wait * 1.2))
    one = mail("a@x.test", "b@y.test")
    handler = FakeHandler()
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert sorted(handler.sent) == [(one.id, 0), (one.id, 1)]


async def test_a_message_that_comes_back_to_the_process_that_has_it_waits_for_its_outcome(
    store: Store, points: Callable[[str, Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back before the outcome of the first delivery is on disk: looking in SETTLE now would find nothing."""
    monkeypatch.setattr("waypost_queue.settle.LINGER", 0.8)
    points("after_send", lambda: time.sleep(FAST.timing.ack_wait * 1.2))
    one = mail("a@x.test")
    handler = FakeHandler()
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert handler.sent == [(one.id, 0)]


async def test_a_worker_that_stood_still_stores_no_ticket(
    store: Store, points: Callable[[str, Callable[[], None]], None]
) -> None:
    points("after_send", lambda: time.sleep(FAST.timing.ack_wait))
    one = mail("a@x.test")
    handler = FakeHandler()
    answers = iter(["deferred", "delivered"])
    handler.answers["a@x.test"] = lambda work, index: next(answers)
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert [work.ticket for work in handler.attempts] == [None, None], "attempted again out of the bundle"
    assert handler.attempts[1].recovered


async def test_an_attempt_longer_than_ack_wait_keeps_its_message(store: Store) -> None:
    one = mail("a@x.test")
    handler = FakeHandler()
    handler.gate.clear()
    async with running(store, handler) as engine:
        await put(store, one)
        await handler.until(lambda: len(handler.attempts) == 1)
        began = handler.attempts[0].now
        async with asyncio.timeout(10):
            while store_now(engine) - began < FAST.timing.ack_wait * 1.5:
                assert handler.attempts[0].owned()
                await asyncio.sleep(0.05)
        handler.gate.set()
        await emptied(store)
    assert len(handler.attempts) == 1


def store_now(engine) -> float:
    return engine._shards[0][2].now()


async def test_what_was_in_hand_when_the_server_was_killed_is_delivered_once(
    nats_server: NatsServer, store: Store
) -> None:
    mails = [mail(f"a{i}@x.test") for i in range(5)]
    handler = FakeHandler()
    handler.gate.clear()
    async with running(store, handler):
        await put(store, *mails)
        await handler.until(lambda: len(handler.attempts) == 5)
        await nats_server.restart()
        await eventually(lambda: not handler.attempts[0].owned(), 10.0, "let go at the disconnect")
        handler.gate.set()
        await connected(store)
        await emptied(store)
    assert sorted(handler.sent) == sorted((each.id, 0) for each in mails), "the outcomes got in before recovery looked"


async def test_a_group_that_another_has_taken_over_is_let_go(store: Store) -> None:
    one = mail("a@x.test")
    handler = FakeHandler()
    handler.answers["a@x.test"] = "deferred"
    handler.gate.clear()
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: len(handler.attempts) == 1)
        guard = subjects.ticket("guard", 0, "default", "fast", "x.test", one.id, 0)
        await store.publish(guard, b"", {"Nats-TTL": "60s"})
        handler.gate.set()
        handler.answers["a@x.test"] = lambda work, index: "delivered" if work.recovered else "deferred"
        await emptied(store)
    assert [work.recovered for work in handler.attempts] == [False, True]
    assert await last_of(store, one, "x.test") is not None, "the guard"


async def test_outcomes_hold_no_deferral(store: Store) -> None:
    one = mail("a@x.test", "b@x.test")
    handler = FakeHandler()
    handler.answers["a@x.test"] = "deferred"
    handler.retry_in = 3600
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: len(handler.done) == 1)
    assert [(o.index, o.result) for s in await settlements(store) for o in s.outcomes] == [(1, "delivered")]
