"""The engine on its ordinary way: bundles and tickets are attempted, settled in order, acked; and within bounds."""

import asyncio
import functools
import time

import pytest
from msgspec import structs

from tests.support import engine as parts
from tests.support.engine import (
    STEADY,
    FakeHandler,
    count,
    emptied,
    last_of,
    mail,
    put,
    put_ticket,
    settlements,
    ticket_at,
    ticket_of,
)
from tests.support.wait import eventually
from waypost_queue import pause
from waypost_queue.engine import Slots
from waypost_queue.held import Held
from waypost_queue.model import ControlMark, Report, Settled
from waypost_queue.pull import Budget, Lane
from waypost_queue.settling import check
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.streams import Layout, Timing
from waypost_queue.work import Decision, Wait


@pytest.fixture
def layout() -> Layout:
    return STEADY


running = functools.partial(parts.running, layout=STEADY)


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
    assert await count(store, "SPOOL-0") == 0


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


async def test_a_group_is_settled_in_the_order_that_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes, DSNs, body, ticket, ack."""
    passed: list[str] = []
    monkeypatch.setattr(pause, "hook", passed.append)
    handler = FakeHandler()
    handler.answers |= {"b@x.test": "failed", "c@x.test": "deferred"}
    handler.retry_in = 3600
    async with running(store, handler):
        await put(store, mail("a@x.test", "b@x.test", "c@x.test"))
        await handler.until(lambda: len(handler.done) == 2)

        async def acked() -> bool:
            return await count(store, "INTAKE-0") == 0

        await eventually(acked)
    first = [name for name in passed[: passed.index("before_ack") + 1] if name not in ("after_recv", "own_attempt")]
    order = ["after_send", "after_settle", "after_dsn", "after_spool", "after_ticket", "before_ack"]
    assert [name for name in dict.fromkeys(first) if name in order] == order


async def test_a_delay_notice_goes_out_before_the_ticket_that_says_so(store: Store) -> None:
    handler = FakeHandler()
    handler.answers["a@x.test"] = "deferred"
    handler.retry_in = 3600
    one = mail("a@x.test")
    reported = Report(id=mail("z@z.test").id, kind="delay", recipients=(Settled(index=0, result="deferred"),))
    handler.delay = lambda work: reported if work.mail.id == one.id else None
    handler.waits = lambda wait: structs.replace(wait, delay_notified=True)
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: (reported.id, 0) in handler.sent and len(handler.done) == 2)
    assert (await ticket_at(store, one, "x.test")).delay_notified
    assert await settlements(store)
    assert all(s.mail == reported.id for s in await settlements(store))


async def test_a_body_stays_while_a_group_of_its_mail_waits(store: Store) -> None:
    handler = FakeHandler()
    handler.answers |= {
        "a@x.test": lambda work, index: "delivered" if work.ticket else "deferred",
        "b@y.test": lambda work, index: "delivered" if work.attempts_made == 3 else "deferred",
    }
    one = mail("a@x.test", "b@y.test")
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: (one.id, 0) in handler.sent)
        await emptied(store)
    assert sorted(handler.sent) == [(one.id, 0), (one.id, 1)], "the second group found its body to the end"
    assert await count(store, "SPOOL-0") == 0


async def test_the_body_of_a_large_mail_goes_once_it_is_delivered(store: Store) -> None:
    handler = FakeHandler()
    one = mail("a@x.test", content=b"x" * 700_000)
    chunks = await Spool(store).put(one.id, one.content or b"")
    async with running(store, handler):
        await put(store, structs.replace(one, content=None, chunks=chunks))
        await emptied(store)

        async def purged() -> bool:
            return await count(store, "SPOOL-0") == 0

        await eventually(purged)
    assert handler.sent == [(one.id, 0)]


async def test_a_mark_that_comes_during_the_attempt_turns_its_schedule_into_a_hold(store: Store) -> None:
    handler = FakeHandler()
    handler.answers["a@x.test"] = "deferred"
    handler.gate.clear()
    marks: dict[str, ControlMark] = {}
    one = mail("a@x.test")
    async with running(store, handler, marks=marks.get):
        await put(store, one)
        await handler.until(lambda: len(handler.attempts) == 1)
        marks[one.id] = ControlMark(mail=one.id, action="hold", by="anna", at=0.0, reason="looks odd")
        handler.gate.set()
        await handler.until(lambda: len(handler.done) == 1)
    stored = await last_of(store, one, "x.test")
    assert stored is not None
    assert stored.subject.startswith("q0.hold.")
    hold = (await ticket_at(store, one, "x.test")).hold
    assert hold is not None
    assert (hold.cause, hold.by, hold.reason) == ("person", "anna", "looks odd")


async def test_a_mark_that_deletes_is_decided_anew_before_the_schedule(store: Store) -> None:
    handler = FakeHandler()
    handler.answers["a@x.test"] = "deferred"
    handler.gate.clear()
    marks: dict[str, ControlMark] = {}
    one = mail("a@x.test", "b@x.test")
    async with running(store, handler, marks=marks.get):
        await put(store, one)
        await handler.until(lambda: len(handler.attempts) == 1)
        marks[one.id] = ControlMark(mail=one.id, action="delete", by="anna", at=0.0)
        handler.gate.set()
        await emptied(store)
    assert [(o.index, o.result) for s in await settlements(store) for o in s.outcomes] == [
        (1, "delivered"),
        (0, "deleted"),
    ]
    assert await count(store, "QUEUE-0") == 0


async def test_a_decision_must_place_every_recipient_once() -> None:
    class AnyWork:
        indexes = (0, 1)

    delivered = Settled(index=0, result="delivered")
    with pytest.raises(ValueError, match="each once"):
        check(AnyWork, Decision(settled=(delivered,)))
    both = Wait(indexes=(0, 1), at=0.0, pool="default", lane="fast", attempt=1)
    with pytest.raises(ValueError, match="each once"):
        check(AnyWork, Decision(settled=(delivered,), wait=both))
    with pytest.raises(ValueError, match="deferral"):
        check(AnyWork, Decision(settled=(delivered, Settled(index=1, result="deferred"))))


async def test_draining_lets_the_attempt_finish_and_writes_its_outcome(store: Store) -> None:
    handler = FakeHandler()
    handler.gate.clear()
    one = mail("a@x.test")
    async with running(store, handler) as engine:
        await put(store, one)
        await handler.until(lambda: len(handler.attempts) == 1)
        drain = asyncio.create_task(engine.drain(5.0))
        await put(store, mail("b@x.test"))
        handler.gate.set()
        await drain
    assert handler.sent == [(one.id, 0)]
    assert [s.mail for s in await settlements(store)] == [one.id]
    assert await count(store, "INTAKE-0") == 1, "what came later is for another worker"


async def test_a_full_lane_leaves_room_for_the_others(store: Store) -> None:
    handler = FakeHandler()
    handler.gate.clear()
    slots = Slots(bundles=40, tickets=40)
    async with running(store, handler, slots=slots) as engine:
        await asyncio.gather(*(put(store, mail("a@x.test"), lane="bulk00") for _ in range(60)))
        await eventually(lambda: len(handler.attempts) >= 18, 5.0, "the bulk lane takes what is free")
        urgent = mail("u@x.test")
        await put(store, urgent, lane="prio")
        await handler.until(lambda: any(work.mail.id == urgent.id for work in handler.attempts))
        assert engine.stats().in_hand <= 40
        handler.gate.set()
        await emptied(store)


async def test_a_ticket_with_its_body_inline_is_delivered(store: Store) -> None:
    """SPOOL had no room when it was deferred."""
    handler = FakeHandler()
    one = mail("a@x.test")
    async with running(store, handler):
        ticket = ticket_of(one, "x.test")
        await put_ticket(store, structs.replace(ticket, mail=one))
        await emptied(store)
    assert handler.sent == [(one.id, 0)]


def lane(budget: Budget, name: str) -> Lane:
    made = Lane(budget, "bundle", 0, "default", name)
    budget.lanes += 1
    budget.idle += 1
    return made


def test_slots_are_shared_by_weight_and_never_exceeded() -> None:
    budget = Budget(100, 100)
    lanes = [lane(budget, name) for name in ("prio", "fast", "bulk00", "bulk01")]
    for each in lanes:
        assert budget.want(each) == 1, "a lane that shows nothing asks for one"
        budget.take(each, open_=1)
    prio, fast, bulk, other = lanes
    for each in (fast, bulk):
        budget.demands(each, True)
    for each in (bulk, fast, bulk, fast):
        budget.take(each, open_=budget.want(each))
    assert budget.used <= 100
    assert fast.open > 5 * bulk.open
    assert prio.open == other.open == 1


def test_an_idle_lane_always_has_room_for_one() -> None:
    budget = Budget(10, 10)
    fast, bulk = lane(budget, "fast"), lane(budget, "bulk00")
    budget.take(fast, open_=budget.want(fast))
    budget.demands(fast, True)
    budget.take(fast, open_=budget.want(fast))
    assert fast.open == 9
    assert budget.want(bulk) == 1


class _Message:
    def __init__(self, deliveries: int, seq: int, consumer_seq: int) -> None:
        self.subject, self.data = "intake0.default.fast.x", b""
        self.reply = f"$JS.ACK.INTAKE-0.default-fast.{deliveries}.{seq}.{consumer_seq}.1790000000000000000.0"


class _Connection:
    epoch = 0
    connected = True


def test_what_may_have_been_delivered_before_is_suspicious() -> None:
    one = lane(Budget(10, 10), "fast")
    one.maybe_delivered, one.stored_before = 250, 1000

    def held(deliveries: int, seq: int, consumer_seq: int) -> Held:
        return Held(_Connection(), Timing(), _Message(deliveries, seq, consumer_seq), 0.0)

    assert one.suspicious(held(1, 900, 51)), "a killed server has forgotten that it delivered this"
    assert not one.suspicious(held(1, 1001, 52)), "stored since: it can't have been delivered before"
    assert one.suspicious(held(2, 1002, 53)), "delivered again"
    assert not one.suspicious(held(1, 1003, 251))
    assert one.suspicious(held(1, 1003, 200)), "the consumer went back: its new leader knows less"


def test_ownership_ends_for_ever_with_the_connection_or_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [105.0]  # five seconds after the pull request left: the message may have waited in the socket
    monkeypatch.setattr("waypost_queue.held.time.monotonic", lambda: now[0])
    connection = _Connection()
    one = Held(connection, Timing(), _Message(1, 1, 1), 100.0)
    now[0] = 119.9
    assert one.owned()
    now[0] = 120.1  # two thirds of 30 s after the pull request was sent
    assert not one.owned()
    now[0] = 110.0
    assert not one.owned(), "once over, never again"
    two = Held(connection, Timing(), _Message(1, 1, 1), 110.0)
    connection.epoch = 1
    assert not two.owned()
    connection.epoch = 0
    assert not two.owned()


async def test_the_keep_alive_of_a_message_that_is_no_longer_ours_sends_nothing() -> None:
    """The server confirms it to anyone."""

    class Asked(_Connection):
        def __init__(self) -> None:
            self.asked: list[bytes] = []

        async def request(self, subject: str, payload: bytes, timeout: float) -> None:
            self.asked.append(payload)

    connection = Asked()
    one = Held(connection, Timing(), _Message(1, 1, 1), time.monotonic())
    await one.renew(1.0)
    assert connection.asked == [b"+WPI"]
    connection.epoch = 1
    await one.renew(1.0)
    assert connection.asked == [b"+WPI"]
