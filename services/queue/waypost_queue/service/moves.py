"""The publishes by which the queue service moves a ticket that waits: each is one message, fenced on the whole group.

Only entries that no consumer can hold (sched, hold) are moved, so that nothing races with a running attempt, and no
schedule that is about to fire: what the server has taken up to fire it stores in any case, even if a fenced publish has
taken the schedule away meanwhile (15 of 100 within 0.4 s of the due time: the mail was there twice).

The header pair `Nats-Scheduler` and `Nats-Schedule-Next: purge` takes the old schedule away with the same publish;
without it both stay, and the old one fires.
"""

from typing import Final

from msgspec import Struct, structs

from waypost_queue import codec, tickets
from waypost_queue.errors import ApiError
from waypost_queue.model import Ticket
from waypost_queue.store import Store
from waypost_queue.subjects import TicketState, TicketSubject
from waypost_queue.tickets import FAR, schedule_time

NEAR: Final = 5.0  # s before its due time a schedule is left to fire; a publish is answered within that time
_UNSETTLED = ("poison", "format", "body")


class Move(Struct, frozen=True):
    """One fenced publish to QUEUE."""

    subject: str
    payload: bytes
    headers: dict[str, str]


def in_state(subject: str, state: TicketState) -> str:
    """The same ticket's subject in another state."""
    parts = subject.split(".")
    parts[1] = state
    return ".".join(parts)


def group_of(subject: str) -> str:
    """The wildcard on which the group of this entry is fenced."""
    at = TicketSubject(subject)
    return f"q{at.shard}.*.*.*.{at.domain_token}.{at.mail}.{at.n}"


def fence(subject: str, seq: int) -> dict[str, str]:
    """Only if the last message of this entry's group is still the one at `seq`."""
    return tickets.fence(seq, group_of(subject))


def to_ready(subject: str, seq: int, ticket: Ticket | bytes) -> Move:
    """A waiting entry becomes ready now, and its schedule goes."""
    headers = {"Nats-Scheduler": subject, "Nats-Schedule-Next": "purge", **fence(subject, seq)}
    return Move(in_state(subject, "ready"), _payload(ticket), headers)


def fire(subject: str, seq: int, ticket: bytes, now: float) -> Move:
    """A schedule that did not fire, due now: at its own subject, where two can't fire beside one another."""
    headers = {
        "Nats-Schedule": schedule_time(now),
        "Nats-Schedule-Target": in_state(subject, "ready"),
        **fence(subject, seq),
    }
    return Move(subject, ticket, headers)


def again(subject: str, seq: int, ticket: Ticket | bytes) -> Move:
    """A ready ticket once more, as a new message at its own subject."""
    return Move(subject, _payload(ticket), fence(subject, seq))


def to_hold(subject: str, seq: int, ticket: Ticket) -> Move:
    """A scheduled or held entry becomes a hold; on the same subject the new schedule takes the old one's place."""
    target = in_state(subject, "hold")
    headers = {
        "Nats-Schedule": schedule_time(FAR),
        "Nats-Schedule-Target": in_state(subject, "ready"),
        **fence(subject, seq),
    }
    if target != subject:
        headers |= {"Nats-Scheduler": subject, "Nats-Schedule-Next": "purge"}
    return Move(target, _payload(ticket), headers)


def unheld(ticket: Ticket, now: float) -> Ticket:
    """The ticket without its hold: the time held does not count towards its expiry.

    A ticket that was held because its attempts ended without an outcome is marked for recovery from the mail's
    acceptance on: what an earlier worker delivered is then found in SETTLE, and not sent again.
    """
    hold = ticket.hold
    if hold is None:
        return ticket
    freed = structs.replace(ticket, hold=None, held_total=ticket.held_total + max(0.0, now - hold.since))
    if hold.cause in _UNSETTLED:
        freed = structs.replace(freed, marked=True, returned=0, origin_time=ticket.origin_time or ticket.mail.accepted)
    return freed


async def publish(store: Store, move: Move) -> None:
    """Raises FencedError when the group has moved on meanwhile, and the other errors of the store."""
    await store.publish(move.subject, move.payload, move.headers)


async def delete(store: Store, stream: str, seq: int) -> None:
    """Removes one message by sequence, the only removal that never makes a consumer forget others; gone is fine."""
    try:
        await store.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except ApiError:
        if await store.at(stream, seq) is not None:
            raise


def _payload(ticket: Ticket | bytes) -> bytes:
    return ticket if isinstance(ticket, bytes) else codec.encode(ticket)
