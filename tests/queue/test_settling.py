"""Settling and recovery where an answer is lost or another was faster: what happens when a step is left out."""

import asyncio
import time

import pytest
from msgspec import structs

from tests.support.engine import (
    FAST,
    FakeHandler,
    count,
    emptied,
    mail,
    put,
    put_ticket,
    running,
    settle,
    subject_of,
    take,
    ticket_of,
)
from tests.support.wait import eventually
from waypost_queue import codec, ids, pause, subjects
from waypost_queue.errors import ApiError, BatchRefusedError, FencedError, UnknownFateError
from waypost_queue.model import Bundle, Mail, Report, Settled, Settlement
from waypost_queue.spool import Spool
from waypost_queue.store import PubAck, Store, Stored
from waypost_queue.streams import Layout
from waypost_queue.work import Decision, Work


@pytest.fixture
def layout() -> Layout:
    return FAST


def failure(mail_id: str) -> str:
    return ids.dsn_id(mail_id, (0,), "failure")


class Losing:
    """Loses the answer to the first publish under `prefix`: after `until` has come true, or before it is sent."""

    def __init__(self, store: Store, prefix: str, monkeypatch: pytest.MonkeyPatch, *, stored: bool = True) -> None:
        self.prefix, self.stored, self.lost = prefix, stored, 0
        self.may_answer = asyncio.Event()
        self._publish = store.publish
        monkeypatch.setattr(store, "publish", self.publish)

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, timeout: float = 5.0
    ) -> PubAck:
        if not subject.startswith(self.prefix) or self.lost:
            return await self._publish(subject, payload, headers, timeout)
        self.lost += 1
        if self.stored:
            # a killed server has forgotten the ids of what was acked meanwhile
            kept = {name: value for name, value in (headers or {}).items() if name != "Nats-Msg-Id"}
            await self._publish(subject, payload, kept, timeout)
            await self.may_answer.wait()
        raise UnknownFateError(f"{subject}: the answer was lost")


async def test_a_ticket_whose_answer_was_lost_is_not_published_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has fired and is done by now: once more under the same fence would send the mail twice."""
    losing = Losing(store, "q0.sched.", monkeypatch)
    handler = FakeHandler()
    handler.answers["a@x.test"] = lambda work, index: "delivered" if work.ticket else "deferred"
    one = mail("a@x.test")
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: bool(handler.sent))

        async def done() -> bool:
            return await count(store, "QUEUE-0") == 0

        await eventually(done)
        losing.may_answer.set()
        await emptied(store)
    assert losing.lost == 1
    assert handler.sent == [(one.id, 0)]


async def test_a_dsn_whose_answer_was_lost_is_looked_for_and_sent_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing = Losing(store, "intake0.default.prio.", monkeypatch)
    handler = FakeHandler()
    handler.answers["a@x.test"] = "failed"
    one = mail("a@x.test")
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: bool(handler.sent))

        async def done() -> bool:
            return await store.last("INTAKE-0", subjects.intake_any(0, failure(one.id))) is None

        await eventually(done)
        losing.may_answer.set()
        await emptied(store)
    assert losing.lost == 1
    assert handler.sent == [(failure(one.id), 0)]


async def test_a_dsn_that_was_lost_with_its_answer_is_stored_by_whoever_comes_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing = Losing(store, "intake0.default.prio.", monkeypatch, stored=False)
    handler = FakeHandler()
    handler.answers["a@x.test"] = "failed"
    one = mail("a@x.test")
    async with running(store, handler):
        await put(store, one)
        await emptied(store)
    assert losing.lost == 1
    assert handler.sent == [(failure(one.id), 0)]


class Overtaken(FakeHandler):
    """While it makes a DSN another owner stores the same one, from another pool."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    async def report(self, work: Work, report: Report) -> Mail:
        made = await super().report(work, report)
        payload = codec.encode(Bundle(mails=(made,)))
        await self.store.publish(subjects.intake(0, "other", "prio", report.id), payload)
        return made


async def test_a_dsn_that_another_owner_stored_meanwhile_is_not_stored_beside_it(store: Store) -> None:
    handler = Overtaken(store)
    handler.answers["a@x.test"] = "failed"
    one = mail("a@x.test")
    async with running(store, handler):
        await put(store, one)
        await handler.until(lambda: len(handler.done) == 1)
    assert await count(store, "INTAKE-0", subjects.intake_any(0, failure(one.id))) == 1
    assert handler.sent == [], "nor was one stored and sent meanwhile"


async def test_a_delay_notice_that_an_earlier_owner_sent_is_not_sent_again(store: Store) -> None:
    one = mail("a@x.test")
    notice = Report(
        id=ids.dsn_id(one.id, (0,), "delay"), kind="delay", recipients=(Settled(index=0, result="deferred"),)
    )
    await put(store, one)
    await take(store, "bundle", "fast")
    await settle(store, Settlement(mail=notice.id, n=0, outcomes=(Settled(index=0, result="delivered"),)))
    handler = FakeHandler()
    handler.answers["a@x.test"] = "deferred"
    handler.retry_in = 3600
    handler.delay = lambda work: notice
    async with running(store, handler):
        await handler.until(lambda: len(handler.done) == 1)
    assert handler.reports == []


async def test_recovery_renews_before_it_looks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(store, mail("a@x.test"))
    await take(store, "bundle", "fast")
    asked: list[str] = []
    request = store.request

    async def asking(subject: str, payload: bytes = b"", *rest: object, **more: object) -> object:
        asked.append("renew" if payload == b"+WPI" else subject)
        return await request(subject, payload, *rest, **more)  # type: ignore[arg-type]

    def started(point: str) -> None:
        if point == "rec_start":
            asked.clear()

    monkeypatch.setattr(store, "request", asking)
    monkeypatch.setattr(pause, "hook", started)
    async with running(store, FakeHandler()):
        await emptied(store)
    look = next(place for place, what in enumerate(asked) if "MSG.GET.QUEUE" in what)
    assert "renew" in asked[:look]


async def test_after_a_reconnect_recovery_lets_others_outcomes_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = mail("a@x.test")
    await put(store, one)
    await take(store, "bundle", "fast")
    writing: list[asyncio.Task[None]] = []
    outcome = Settlement(mail=one.id, n=0, outcomes=(Settled(index=0, result="delivered"),))

    async def write_late() -> None:
        await asyncio.sleep(0.2)  # another worker, which came back a little later
        await settle(store, outcome)

    def started(point: str) -> None:
        if point == "rec_start" and not writing:
            store.reconnected_at = time.monotonic()
            writing.append(asyncio.ensure_future(write_late()))

    monkeypatch.setattr(pause, "hook", started)
    handler = FakeHandler()
    slow = structs.replace(FAST, timing=structs.replace(FAST.timing, grace_after_reconnect=0.8))
    async with running(store, handler, layout=slow):
        await emptied(store)
    assert writing
    assert handler.attempts == []


async def test_an_outcome_that_seems_older_than_its_bundle_is_seen(store: Store) -> None:
    """The leaders' clocks differ."""
    one = mail("a@x.test")
    await settle(store, Settlement(mail=one.id, n=0, outcomes=(Settled(index=0, result="delivered"),)))
    await put(store, one)
    await take(store, "bundle", "fast")
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert handler.attempts == []


class Slow(FakeHandler):
    """Attempts towards y.test wait for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def attempt(self, work: Work) -> Decision:
        if work.domain == "y.test":
            await self.go.wait()
        return await super().attempt(work)


async def test_a_ticket_that_is_done_leaves_the_body_to_its_bundle(store: Store) -> None:
    handler = Slow()
    retried = lambda work, index: "delivered" if work.ticket else "deferred"  # noqa: E731
    handler.answers |= {"a@x.test": retried, "b@y.test": retried}
    one = mail("a@x.test", "b@y.test", content=b"x" * 200_000)
    chunks = await Spool(store).put(one.id, one.content or b"")
    async with running(store, handler) as engine:
        await put(store, structs.replace(one, content=None, chunks=chunks))
        await handler.until(lambda: (one.id, 0) in handler.sent)
        async with asyncio.timeout(10):
            while engine.stats().in_hand > 1:
                await asyncio.sleep(0)
        handler.go.set()
        await emptied(store)
    assert handler.sent == [(one.id, 0), (one.id, 1)]
    assert await count(store, "SPOOL-0") == 0


async def test_what_was_just_acked_keeps_no_body(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """On three replicas its removal may still be under way when the body check looks."""
    deferred, large = mail("a@x.test"), mail("b@y.test", content=b"x" * 200_000)
    await Spool(store).put(deferred.id, deferred.content or b"")
    chunks = await Spool(store).put(large.id, large.content or b"")
    ticket = ticket_of(deferred, "x.test")
    last, at = store.last, store.at
    seqs: dict[str, int] = {}

    async def last_lags(stream: str, subject: str) -> Stored | None:
        found = await last(stream, subject)
        if found is None and deferred.id in subject:
            return Stored(subject_of(ticket), seqs["ticket"], 0.0, b"")
        return found

    async def at_lags(stream: str, seq: int) -> Stored | None:
        return Stored("intake0.default.fast.x", seq, 0.0, b"") if seq == seqs["bundle"] else await at(stream, seq)

    async with running(store, FakeHandler()):
        monkeypatch.setattr(store, "last", last_lags)
        monkeypatch.setattr(store, "at", at_lags)
        seqs["bundle"] = await put(store, structs.replace(large, content=None, chunks=chunks))
        seqs["ticket"] = await put_ticket(store, ticket)

        async def purged() -> bool:
            return await count(store, "SPOOL-0") == 0

        await eventually(purged)


@pytest.mark.parametrize(
    "refusal",
    [
        FencedError("q0", 400, 10071, "wrong last sequence"),
        BatchRefusedError("q0", 400, 10176, "batch is incomplete and was abandoned"),
        BatchRefusedError("q0", 429, 10210, "too many batches"),
    ],
    ids=lambda error: str(error.err_code),
)
async def test_guards_of_a_batch_that_was_refused_are_put_one_by_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, refusal: ApiError
) -> None:
    refused = []

    async def refuse(*_: object) -> PubAck:
        refused.append(True)
        raise refusal

    monkeypatch.setattr(store, "publish_batch", refuse)
    mails = [mail(f"a{i}@x.test") for i in range(12)]
    await put(store, *mails)
    await take(store, "bundle", "fast")
    handler = FakeHandler()
    async with running(store, handler):
        await emptied(store)
    assert refused == [True]
    assert sorted(handler.sent) == sorted((each.id, 0) for each in mails)
    assert await count(store, "QUEUE-0", "q0.guard.>") == 12
