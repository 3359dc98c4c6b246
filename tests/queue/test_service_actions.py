"""Hold, release, retry, bounce, delete: on what waits by one fenced publish, on what is in delivery by a mark."""

import time
from collections.abc import AsyncIterator

import pytest

from tests.queue.service_parts import (
    ack,
    counted,
    defer,
    entries,
    hold,
    leading,
    mail,
    make_ready,
    pull,
    put_bundle,
    queue_messages,
    subject,
    ticket,
)
from tests.support.wait import eventually
from waypost_queue import codec, ids, subjects
from waypost_queue.events import Event
from waypost_queue.kv import Bucket
from waypost_queue.model import Bundle, ControlAnswer, ControlMark, ControlRequest, Ticket
from waypost_queue.service import moves
from waypost_queue.service.leader import Leader
from waypost_queue.store import Store
from waypost_queue.streams import Layout
from waypost_queue.tickets import FAR, schedule_time


@pytest.fixture
def told() -> list[Event]:
    """What the service told the world."""
    return []


@pytest.fixture
async def leader(store: Store, layout: Layout, told: list[Event]) -> AsyncIterator[Leader]:
    async with leading(store, layout, emit=told.append) as leader:
        yield leader


async def ask(store: Store, action: object, mail_id: str, **more: str) -> ControlAnswer:
    request = ControlRequest(action=action, mail=mail_id, by="ada", **more)  # type: ignore[arg-type]
    return codec.decode((await store.request("ctl.0", codec.encode(request))).data, ControlAnswer)


async def mark_of(store: Store, mail_id: str) -> ControlMark | None:
    entry = await Bucket(store, "state").get(f"mark.{mail_id}")
    return None if entry is None else codec.decode(entry.value, ControlMark)


async def test_retry_now_makes_a_deferred_ticket_ready_and_takes_its_schedule_away(
    store: Store, leader: Leader, told: list[Event]
) -> None:
    of = ticket(mail())
    await defer(store, of)
    answer = await ask(store, "retry", of.mail.id.upper())
    assert answer == ControlAnswer(acted=1)
    (message,) = await pull(store, "QUEUE-0", 5)
    got = codec.decode(message.data, Ticket)
    assert (got.verdict, got.verdict_by) == ("retry", "ada")
    assert [s.subject for s in await queue_messages(store)] == [subject("ready", of)]
    await ack(store, message)
    assert await queue_messages(store) == []
    (event,) = told
    assert (event.kind, event.by, event.mail) == ("action", "ada", of.mail.id)


@pytest.mark.parametrize("action", ["bounce", "delete"])
@pytest.mark.parametrize("state", ["sched", "hold"])
async def test_the_verdict_of_a_ticket_that_waits_goes_to_delivery_in_the_ticket(
    store: Store, leader: Leader, action: str, state: str
) -> None:
    of = ticket(mail())
    await (defer if state == "sched" else hold)(store, of)
    assert (await ask(store, action, of.mail.id, reason="spam")).acted == 1
    (message,) = await pull(store, "QUEUE-0", 5)
    got = codec.decode(message.data, Ticket)
    assert (got.verdict, got.verdict_by, got.verdict_reason) == (action, "ada", "spam")
    assert len(await queue_messages(store)) == 1


async def test_a_held_ticket_stays_until_it_is_released_and_its_time_does_not_count(
    store: Store, leader: Leader, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "NEAR", 0.3)
    of = ticket(mail())
    await defer(store, of, 0.8)
    assert (await ask(store, "hold", of.mail.id, reason="look at it")).acted == 1
    found = (await entries(store, of.mail))["hold"].ticket
    assert found.hold is not None
    assert (found.hold.cause, found.hold.by, found.hold.reason) == ("person", "ada", "look at it")
    assert await pull(store, "QUEUE-0", 1, expires=1.0) == [], "the old schedule fired"
    assert (await ask(store, "hold", of.mail.id)).acted == 1  # again: it stands already
    assert (await ask(store, "release", of.mail.id)).acted == 1
    (message,) = await pull(store, "QUEUE-0", 5)
    got = codec.decode(message.data, Ticket)
    assert got.hold is None
    assert got.verdict == "release"
    assert 1.0 <= got.held_total < 10
    assert not got.marked
    assert [e.kind for e in told] == ["held", "action", "action", "released", "action"]


async def test_a_ticket_held_as_poison_is_released_marked_for_recovery(store: Store, leader: Leader) -> None:
    of = ticket(mail(age=500), returned=2)
    await hold(store, of, cause="poison")
    await ask(store, "release", of.mail.id)
    (message,) = await pull(store, "QUEUE-0", 5)
    got = codec.decode(message.data, Ticket)
    assert got.marked
    assert got.origin_time == of.mail.accepted
    assert got.returned == 0


async def test_release_leaves_what_is_merely_deferred_alone(store: Store, leader: Leader) -> None:
    of = ticket(mail())
    seq = await defer(store, of)
    answer = await ask(store, "release", of.mail.id)
    assert (answer.acted, answer.in_delivery, answer.error) == (0, 0, "")
    assert "not held" in answer.detail
    assert (await entries(store, of.mail))["sched"].seq == seq


async def test_what_fired_between_the_look_and_the_publish_is_marked_instead(
    store: Store, leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = ticket(mail())
    await defer(store, of)
    real = moves.publish
    fired = False

    async def late(on: Store, move: moves.Move) -> None:
        nonlocal fired
        if not fired:
            fired = True
            headers = {"Nats-Scheduler": subject("sched", of), "Nats-Schedule-Next": "purge"}
            await store.publish(subject("ready", of), codec.encode(of), headers)
        await real(on, move)

    monkeypatch.setattr(moves, "publish", late)
    answer = await ask(store, "delete", of.mail.id)
    assert (answer.acted, answer.in_delivery) == (0, 1)
    mark = await mark_of(store, of.mail.id)
    assert mark is not None
    assert mark.action == "delete"
    assert len(await queue_messages(store)) == 1


async def test_a_running_attempt_is_not_touched_and_its_next_schedule_is_caught(store: Store, leader: Leader) -> None:
    of = ticket(mail())
    seq = await make_ready(store, of)
    (message,) = await pull(store, "QUEUE-0", 1)
    assert (await ask(store, "hold", of.mail.id)).in_delivery == 1
    assert [s.seq for s in await queue_messages(store)] == [seq]
    # the owner had looked for a mark before it was put: it defers, in the ordinary order
    headers = {
        "Nats-Schedule": schedule_time(time.time() + 3600),
        "Nats-Schedule-Target": subject("ready", of),
        **moves.fence(subject("sched", of), seq),
    }
    await store.publish(subject("sched", of), codec.encode(of), headers)
    await ack(store, message)

    async def held() -> bool:
        return "hold" in await entries(store, of.mail)

    await eventually(held, 5, "the mark is heeded by the review")
    assert [subjects.TicketSubject(s.subject).state for s in await queue_messages(store)] == ["hold"]

    async def unmarked() -> bool:
        return await mark_of(store, of.mail.id) is None

    await eventually(unmarked, 5, "a heeded mark goes")
    assert (await ask(store, "release", of.mail.id)).acted == 1
    assert "ready" in await entries(store, of.mail), "and holds nothing again"


async def test_a_mark_on_a_mail_in_its_bundle_goes_once_the_mail_has_gone(store: Store, leader: Leader) -> None:
    ended = counted("waypost_marks_ended", why="gone")
    one, other = mail("a.test", "b.test"), mail("a.test")
    await put_bundle(store, other, one)
    answer = await ask(store, "delete", one.id)
    assert (answer.acted, answer.in_delivery, answer.error) == (0, 2, "")
    assert (await ask(store, "delete", one.id, domain="b.test")).error == ""
    mark = await mark_of(store, one.id)
    assert mark is not None
    assert await mark_of(store, other.id) is None
    (message,) = await pull(store, "INTAKE-0", 1)
    await ack(store, message)

    async def unmarked() -> bool:
        return await mark_of(store, one.id) is None

    await eventually(unmarked, 5, "the mark goes with the mail")
    assert counted("waypost_marks_ended", why="gone") == ended + 1
    assert (await ask(store, "delete", one.id)).error == "not-found"


@pytest.mark.parametrize("action", ["hold", "delete", "bounce", "retry"])
async def test_a_schedule_that_is_about_to_fire_is_left_to_fire_and_the_mail_marked(
    store: Store, leader: Leader, action: str
) -> None:
    """The server stores what it has taken up to fire even when a fenced publish takes the schedule away."""
    of = [ticket(mail()) for _ in range(20)]
    for number, each in enumerate(of):
        await defer(store, each, 0.2 + number / 200)
    for each in of:
        answer = await ask(store, action, each.mail.id)
        assert (answer.acted, answer.in_delivery) == (0, 1)
        assert (await mark_of(store, each.mail.id) is not None) is (action != "retry")
    got: list[str] = []

    async def fired() -> bool:
        got.extend(codec.decode(m.data, Ticket).mail.id for m in await pull(store, "QUEUE-0", 50, expires=0.2))
        return len(got) >= 20

    await eventually(fired, 5, "all fire")
    assert sorted(got) == sorted(each.mail.id for each in of)
    assert len(await queue_messages(store)) == 20


async def test_one_destination_of_a_mail_can_be_acted_upon(store: Store, leader: Leader) -> None:
    of = mail("a.test", "b.test")
    await defer(store, ticket(of, "a.test"))
    await defer(store, ticket(of, "b.test"))
    assert (await ask(store, "hold", of.id, domain="b.test")).acted == 1
    states = {s.subject.split(".")[4]: subjects.TicketSubject(s.subject).state for s in await queue_messages(store)}
    assert states == {"a_test": "sched", "b_test": "hold"}
    assert (await ask(store, "hold", of.id, domain="c.test")).error == "not-found"


async def test_a_release_takes_back_a_hold_that_is_not_yet_heeded(store: Store, leader: Leader) -> None:
    of = ticket(mail())
    await make_ready(store, of)
    (message,) = await pull(store, "QUEUE-0", 1)
    await ask(store, "hold", of.mail.id)
    assert await mark_of(store, of.mail.id) is not None
    await ask(store, "release", of.mail.id)
    assert await mark_of(store, of.mail.id) is None
    await ack(store, message)


async def test_what_is_nowhere_or_misspelt_is_said_to_be(store: Store, leader: Leader) -> None:
    assert (await ask(store, "delete", ids.mail_id(time.time(), 0))).error == "not-found"
    assert (await ask(store, "delete", "bundle-5-0")).error == "not-found"
    assert (await ask(store, "delete", "bundle-5-3")).error == "not-found"
    assert (await ask(store, "delete", "bundle-x")).error == "not-found"
    answer = await ask(store, "delete", "hello")
    assert answer.error == "not-found"
    assert "27 characters" in answer.detail
    request = ControlRequest(action="delete", mail=ids.mail_id(time.time(), 0), by="")
    answer = codec.decode((await store.request("ctl.0", codec.encode(request))).data, ControlAnswer)
    assert answer.error == "refused"


async def test_a_bundle_held_whole_goes_back_to_intake_and_the_hold_stays_until_the_copy_has_gone(
    store: Store, leader: Leader
) -> None:
    one = mail(age=100)
    held = subjects.held_bundle(0, "default", "fast", 77)
    headers = {"Nats-Schedule": schedule_time(FAR), "Nats-Schedule-Target": moves.in_state(held, "ready")}
    await store.publish(held, codec.encode(Bundle(mails=(one,))), headers)
    assert (await ask(store, "bounce", "bundle-77-0")).error == "refused"
    assert (await ask(store, "release", "bundle-77-0")).acted == 1
    assert (await ask(store, "release", "bundle-77-0")).acted == 1  # twice makes no second copy
    (message,) = await pull(store, "INTAKE-0", 5)
    bundle = codec.decode(message.data, Bundle)
    assert (bundle.marked, bundle.origin_seq, bundle.origin_time) == (True, 77, one.accepted)
    assert len(await queue_messages(store)) == 1
    await ack(store, message)

    async def gone() -> bool:
        return await queue_messages(store) == []

    await eventually(gone, 5, "the held original goes after its copy")


async def test_a_ticket_that_cannot_be_decoded_is_shown_and_can_be_released_as_it_is_or_deleted(
    store: Store, leader: Leader
) -> None:
    of = ticket(mail())
    headers = {"Nats-Schedule": schedule_time(FAR), "Nats-Schedule-Target": subject("ready", of)}
    await store.publish(subject("hold", of), b"W\x63newer", headers)
    found = (await entries(store, of.mail))["hold"]
    assert found.ticket.hold is not None
    assert "format 99 is newer" in found.ticket.hold.reason
    assert (await ask(store, "bounce", of.mail.id)).error == "refused"
    assert (await ask(store, "release", of.mail.id)).acted == 1
    (message,) = await pull(store, "QUEUE-0", 5)
    assert message.data == b"W\x63newer"
    await ack(store, message)
    await store.publish(subject("hold", of), b"W\x63newer", headers)
    assert (await ask(store, "delete", of.mail.id)).acted == 1
    assert await queue_messages(store) == []


async def test_nobody_answers_while_no_instance_is_active(store: Store) -> None:
    from waypost_queue.errors import UnavailableError

    with pytest.raises(UnavailableError):
        await ask(store, "delete", ids.mail_id(time.time(), 0))
