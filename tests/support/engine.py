"""What the engine's tests need: a handler that does as it is told and keeps a ledger, and mails, bundles, tickets."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from msgspec import structs

from tests.support.wait import eventually
from waypost_queue import codec, ids, subjects
from waypost_queue.engine import Engine, Slots
from waypost_queue.model import (
    Bundle,
    ControlMark,
    Mail,
    Recipient,
    Reply,
    Report,
    SettleBatch,
    Settled,
    Settlement,
    Ticket,
)
from waypost_queue.spool import Spool
from waypost_queue.store import Store, Stored
from waypost_queue.streams import Layout, Timing
from waypost_queue.work import Decision, Wait, Work

FAST = Layout(
    store_bytes=1 << 30,
    timing=Timing(
        ack_wait=1.5,
        pull_expires=0.4,
        keep_alive=0.4,
        guard_ttl=60.0,
        attempt_limit=30.0,
        retake_delay=0.2,
        grace_after_reconnect=0.2,
    ),
)
"""A layout whose messages come back in a second and a half."""

STEADY = structs.replace(FAST, timing=structs.replace(FAST.timing, ack_wait=15.0, pull_expires=2.0, keep_alive=2.0))
"""Where nothing has to come back: a pause of a busy machine costs no message."""

Answer = str | Callable[[Work, int], str]


class FakeHandler:
    """Answers `delivered` unless `answers[address]` says failed, deferred, held, raise; `gate` holds all attempts."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.attempts: list[Work] = []
        self.sent: list[tuple[str, int]] = []  # (mail, index) in order
        self.reports: list[Report] = []
        self.done: list[tuple[Work, Decision]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()
        self.changed = asyncio.Event()
        self.retry_in = 0.2
        self.delay: Callable[[Work], Report | None] = lambda work: None
        self.waits: Callable[[Wait], Wait] = lambda wait: wait

    async def attempt(self, work: Work) -> Decision:
        self.attempts.append(work)
        self.began.set()
        self._change()
        await self.gate.wait()
        await work.body()
        settled, waiting, failed = [], [], []
        for index in work.indexes:
            answer = self.answers.get(work.recipients[index].address, "delivered")
            if callable(answer):
                answer = answer(work, index)
            if work.mark is not None and work.mark.action == "delete":
                answer = "deleted"
            if answer == "raise":
                raise RuntimeError("a fault of the handler")
            if answer in ("delivered", "failed", "deleted"):
                settled.append(Settled(index=index, result=answer, reply=Reply(code=250, text="ok")))
                if answer == "delivered":
                    self.sent.append((work.mail.id, index))
                elif answer == "failed" and work.mail.kind == "mail":
                    failed.append(settled[-1])
            else:
                waiting.append(index)
        owed = ()
        if failed:
            owed = (
                Report(
                    id=ids.dsn_id(work.mail.id, [one.index for one in failed], "failure"),
                    kind="failure",
                    recipients=tuple(failed),
                ),
            )
        wait = None
        if waiting:
            wait = self.waits(
                Wait(
                    indexes=tuple(waiting),
                    at=work.now + self.retry_in,
                    pool=work.pool,
                    lane="bulk03",
                    attempt=work.attempts_made + 1,
                )
            )
        return Decision(settled=tuple(settled), owed=owed, wait=wait, delay=self.delay(work) if wait else None)

    async def report(self, work: Work, report: Report) -> Mail:
        self.reports.append(report)
        return mail(work.mail.sender, sender="", ident=report.id, kind="dsn", about=work.mail.id)

    def settled(self, work: Work, decision: Decision) -> None:
        self.done.append((work, decision))
        self._change()

    def lane_for_retry(self, mail: Mail) -> str:
        return "bulk03"

    def _change(self) -> None:
        self.changed.set()

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Waits for attempts and settlements until the condition holds."""
        async with asyncio.timeout(timeout):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def mail(*to: str, sender: str = "sender@example.org", ident: str = "", content: bytes = b"hello\r\n", **more) -> Mail:
    """A mail to addresses, its destination domains what follows the @."""
    now = time.time()
    return Mail(
        id=ident or ids.mail_id(now, 0),
        sender=sender,
        recipients=tuple(Recipient(address=a, domain=a.rpartition("@")[2]) for a in to),
        size=len(content),
        accepted=now,
        content=content,
        **more,
    )


async def put(store: Store, *mails: Mail, lane: str = "fast", **marks) -> int:
    """One bundle in INTAKE; its sequence."""
    payload = codec.encode(Bundle(mails=mails, **marks))
    return (await store.publish(subjects.intake(0, "default", lane, ids.ulid(time.time())), payload)).seq


def ticket_of(mail: Mail, domain: str, **more) -> Ticket:
    """A ticket for all recipients of a domain, its body in the spool."""
    indexes = tuple(i for i, r in enumerate(mail.recipients) if r.domain == domain)
    return Ticket(
        mail=structs.replace(mail, recipients=tuple(mail.recipients[i] for i in indexes), content=None, chunks=1),
        domain=domain,
        n=indexes[0],
        indexes=indexes,
        attempt=1,
        groups=((domain, indexes[0]),),
        lane="bulk03",
        pool="default",
        **more,
    )


def subject_of(ticket: Ticket, state: subjects.TicketState = "ready") -> str:
    return subjects.ticket(state, 0, ticket.pool, ticket.lane, ticket.domain, ticket.mail.id, ticket.n)


async def put_ticket(store: Store, ticket: Ticket) -> int:
    """A ready ticket; its sequence."""
    return (await store.publish(subject_of(ticket), codec.encode(ticket))).seq


async def settle(store: Store, *settlements: Settlement) -> None:
    """Outcomes, as an earlier owner wrote them."""
    await store.publish("settle0", codec.encode(SettleBatch(settlements=settlements, worker="earlier")))


async def settlements(store: Store) -> list[Settlement]:
    return [s async for m in store.direct("SETTLE-0", "settle0") for s in codec.decode(m.data, SettleBatch).settlements]


async def last_of(store: Store, mail: Mail, domain: str, n: int = 0) -> Stored | None:
    return await store.last("QUEUE-0", subjects.group_any(0, domain, mail.id, n))


async def ticket_at(store: Store, mail: Mail, domain: str, n: int = 0) -> Ticket:
    stored = await last_of(store, mail, domain, n)
    assert stored is not None
    return codec.decode(stored.data, Ticket)


async def count(store: Store, stream: str, subject: str = ">") -> int:
    state = (await store.api(f"STREAM.INFO.{stream}", {"subjects_filter": subject}))["state"]
    return sum((state.get("subjects") or {}).values())


async def emptied(store: Store, timeout: float = 12.0) -> None:
    """Until INTAKE is empty and QUEUE holds guards alone."""

    async def empty() -> bool:
        state = (await store.api("STREAM.INFO.QUEUE-0", {"subjects_filter": "q0.>"}))["state"]
        queued = [s for s in state.get("subjects") or {} if not s.startswith("q0.guard.")]
        return not queued and await count(store, "INTAKE-0") == 0

    await eventually(empty, timeout, "the queue is empty")


async def take(store: Store, kind: str, lane: str, ack: bytes | None = b"-NAK") -> None:
    """Takes one message out of a lane as an earlier worker would, and gives it back: its next is a further delivery."""
    inbox = store.nc.new_inbox()
    subscription = await store.nc.subscribe(inbox)
    stream = "INTAKE-0" if kind == "bundle" else "QUEUE-0"
    await store.nc.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.default-{lane}", b'{"batch":1,"expires":5000000000}', inbox
    )
    message = await subscription.next_msg(6)
    assert message.reply.startswith("$JS.ACK"), message
    await subscription.unsubscribe()
    if ack is not None:
        await store.nc.publish(message.reply, ack)
        await store.nc.flush()


@contextlib.asynccontextmanager
async def running(
    store: Store,
    handler: FakeHandler,
    marks: Callable[[str], ControlMark | None] = lambda mail: None,
    layout: Layout = FAST,  # the one that the streams were made for
    slots: Slots | None = None,
    spool: Spool | None = None,
) -> AsyncIterator[Engine]:
    """An engine at work on a connection."""
    engine = Engine(
        store, layout, handler, pool="default", spool=spool or Spool(store), marks=marks, worker="test", slots=slots
    )
    await engine.start()
    try:
        await eventually(lambda: engine.stats().lanes_ready == engine.stats().lanes, 5.0, "every lane pulls")
        yield engine
    finally:
        await engine.drain(2.0)
