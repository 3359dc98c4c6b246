"""The queue service beside workers that deliver: whatever is asked or healed, nothing is lost or sent twice."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec import structs

from tests.queue.service_parts import ack, counted, leading, pull
from tests.support.engine import FakeHandler, count, emptied, mail, put, put_ticket, running, settle, ticket_of
from tests.support.nats import LAYOUT
from waypost_queue import codec, control
from waypost_queue.kv import Bucket, Changes
from waypost_queue.model import Bundle, ControlMark, ControlRequest, Settled, Settlement
from waypost_queue.service import moves
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.streams import Layout, Timing
from waypost_queue.work import Work

QUICK = structs.replace(
    LAYOUT,
    timing=Timing(
        ack_wait=0.9,
        pull_expires=0.25,
        keep_alive=0.25,
        attempt_limit=30.0,
        retake_delay=0.1,
        grace_after_reconnect=0.1,
    ),
)


@pytest.fixture
def layout() -> Layout:
    return QUICK


@asynccontextmanager
async def marks_of(store: Store) -> AsyncIterator[dict[str, ControlMark]]:
    """The control marks as a delivery process sees them."""
    marks: dict[str, ControlMark] = {}

    def changed(changes: Changes) -> None:
        for key, entry in changes.items():
            if entry is None:
                marks.pop(key.removeprefix("mark."), None)
            else:
                marks[key.removeprefix("mark.")] = codec.decode(entry.value, ControlMark)

    watch = await Bucket(store, "state").watch(changed, "mark.")
    try:
        yield marks
    finally:
        await watch.close()


@asynccontextmanager
async def delivering(store: Store, layout: Layout, handler: FakeHandler) -> AsyncIterator[None]:
    """A queue service and a worker that heeds its marks."""
    async with (
        leading(store, layout),
        marks_of(store) as marks,
        running(store, handler, layout=layout, marks=marks.get),
    ):
        yield


async def test_of_forgotten_bundles_each_is_sent_once_and_what_was_delivered_already_is_not(
    store: Store, layout: Layout
) -> None:
    healed = counted("waypost_sweep_forgotten", kind="bundle")
    mails = [mail(f"u{i}@x.test") for i in range(6)]
    for i, of in enumerate(mails):
        await store.publish(f"intake0.default.fast.b{i}", codec.encode(Bundle(mails=(of,))))
    messages = await pull(store, "INTAKE-0", 6)
    await settle(store, Settlement(mail=mails[0].id, n=0, outcomes=(Settled(index=0, result="delivered"),)))
    await store.api("STREAM.PURGE.INTAKE-0", {"filter": "intake0.default.fast.b3"})
    await ack(store, messages[4])
    handler = FakeHandler()
    async with leading(store, layout), running(store, handler, layout=layout):
        await emptied(store, 15)
    assert Counter(handler.sent) == {(mails[i].id, 0): 1 for i in (1, 2, 5)}
    assert counted("waypost_sweep_forgotten", kind="bundle") == healed + 3


async def test_of_forgotten_tickets_each_is_sent_once_and_what_was_delivered_already_is_not(
    store: Store, layout: Layout
) -> None:
    mails = [mail(f"u{i}@x.test") for i in range(6)]
    for of in mails:
        await Spool(store).put(of.id, of.content or b"")
        await put_ticket(store, structs.replace(ticket_of(of, "x.test"), lane="fast"))
    messages = await pull(store, "QUEUE-0", 6)
    await settle(store, Settlement(mail=mails[0].id, n=0, outcomes=(Settled(index=0, result="delivered"),)))
    await store.api("STREAM.PURGE.QUEUE-0", {"filter": messages[3].subject})
    await ack(store, messages[4])
    handler = FakeHandler()
    async with leading(store, layout), running(store, handler, layout=layout):
        await emptied(store, 15)
    assert Counter(handler.sent) == {(mails[i].id, 0): 1 for i in (1, 2, 5)}
    spooled = {name.split(".")[1] for name in await spool_subjects(store)}
    assert spooled == {mails[3].id, mails[4].id}, "the bodies of those that the test took away itself"


async def test_a_deletion_during_an_attempt_lets_it_finish_and_ends_what_it_deferred(
    store: Store, layout: Layout
) -> None:
    handler = FakeHandler()
    handler.gate.clear()
    handler.answers["b@y.test"] = "deferred"
    of = mail("a@x.test", "b@y.test")
    async with delivering(store, layout, handler):
        await put(store, of)
        await handler.until(lambda: len(handler.attempts) == 2)
        answer = await control.act(store, ControlRequest(action="delete", mail=of.id, by="ada"))
        assert (answer.acted, answer.in_delivery) == (0, 2)
        handler.gate.set()
        await emptied(store)
    assert handler.sent == [(of.id, 0)]
    results = {(s.index, s.result) for _, decision in handler.done for s in decision.settled}
    assert results == {(0, "delivered"), (1, "deleted")}


async def test_a_mark_about_one_destination_leaves_the_other_alone(store: Store, layout: Layout) -> None:
    handler = FakeHandler()
    handler.gate.clear()
    tries = Counter[str]()

    def once_deferred(work: Work, index: int) -> str:
        tries[work.domain] += 1
        return "deferred" if tries[work.domain] == 1 else "delivered"

    handler.answers = {"a@x.test": once_deferred, "b@y.test": once_deferred}
    of = mail("a@x.test", "b@y.test")
    async with delivering(store, layout, handler):
        await put(store, of)
        await handler.until(lambda: len(handler.attempts) == 2)
        await control.act(store, ControlRequest(action="delete", mail=of.id, by="ada", domain="y.test"))
        handler.gate.set()
        await emptied(store)
    assert handler.sent == [(of.id, 0)]


async def test_whatever_is_asked_at_random_each_mail_is_sent_once(
    store: Store, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries, holds and releases against workers that defer each mail a few times: 30 mails, some 300 actions."""
    chance, asked = random.Random(9), Counter[str]()
    handler = FakeHandler()
    monkeypatch.setattr(moves, "NEAR", 0.6)
    handler.waits = lambda wait: structs.replace(wait, at=wait.at + chance.uniform(0.0, 1.5))
    mails = [mail(f"a{i}@x.test", f"b{i}@y.test") for i in range(30)]
    for of in mails:
        for recipient in of.recipients:
            handler.answers[recipient.address] = lambda work, index: (
                "deferred" if work.attempts_made < 2 or (work.mark and work.mark.action == "hold") else "delivered"
            )

    async def trouble(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(75):
            of = own.choice(mails)
            action = own.choice(["retry", "hold", "release", "retry", "hold"])
            domain = own.choice(["", "x.test", "y.test"])
            answer = await control.act(store, ControlRequest(action=action, mail=of.id, by="eve", domain=domain))  # type: ignore[arg-type]
            assert answer.error in ("", "not-found", "unavailable"), answer
            asked.update({"acted": answer.acted, "in delivery": answer.in_delivery})

    async with delivering(store, layout, handler):
        for start in range(0, 30, 5):
            await put(store, *mails[start : start + 5])
        await asyncio.gather(*(trouble(chance.randrange(1 << 30)) for _ in range(4)))

        async def let_go() -> None:
            while await count(store, "QUEUE-0", "q0.*.*.*.*.*.*") or await count(store, "INTAKE-0"):
                for of in mails:
                    await control.act(store, ControlRequest(action="release", mail=of.id, by="eve"))
                await asyncio.sleep(0.1)

        await asyncio.wait_for(let_go(), 20)
    assert Counter(handler.sent) == {(of.id, index): 1 for of in mails for index in (0, 1)}
    assert asked["acted"] > 50
    assert asked["in delivery"] > 5


async def spool_subjects(store: Store) -> list[str]:
    info = await store.api("STREAM.INFO.SPOOL-0", {"subjects_filter": "spool0.>"})
    return list(info["state"].get("subjects") or {})
