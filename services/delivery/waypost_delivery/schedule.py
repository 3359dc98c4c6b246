"""When a group is tried again, when it is given up, and who must be told: decided from outcomes alone. Pure.

Age counts from acceptance on the stream's clock, less the time that suspensions held the mail. A recipient expires only
with an attempt behind it and while the pod's clock agrees with the stream's: a clock that jumps never bounces mail.
Reports follow RFC 3461: NOTIFY decides, `<>` is never told anything (RFC 3461 6, RFC 5321 4.5.5).
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from waypost_queue import ids
from waypost_queue.config import Retry
from waypost_queue.model import Recipient, Reply, Report, ReportKind, Result, Settled, Ticket
from waypost_queue.work import Decision, Wait, Work

from .transport import RecipientOutcome

JITTER = 0.2  # of a delay: mails that failed together don't come back together

_DEFAULT_NOTIFY = ("FAILURE", "DELAY")  # RFC 3461 4.1: what a client that says nothing gets
_NOTIFY_FOR: Mapping[ReportKind, str] = {
    "failure": "FAILURE",
    "delay": "DELAY",
    "success": "SUCCESS",
    "relayed": "SUCCESS",  # RFC 3461 6.2.4: the hop that knows no DSN ends what we can promise
}
_KIND_OF: Mapping[Result, ReportKind] = {"failed": "failure", "expired": "failure", "relayed": "relayed"}


class Terms(Struct, frozen=True, kw_only=True):
    """What a decision rests on besides the work and its outcomes."""

    retry: Retry
    pool: str
    lane: str  # of what waits
    jitter: float  # [0, 1)
    clocks_agree: bool = True
    final: bool = False  # "delivered" was the end of the way (the inbox), not a hop that takes over the DSN duty
    attempted: bool = True  # False: no attempt was made (spill); the count stays
    again_at: float = 0.0  # of a spill: when there may be room
    site_tried: bool = False  # of a spill: the site failed since the mail was accepted, whoever's attempt it was


class Decided(Decision, frozen=True, kw_only=True):
    """A decision that still knows what it came from, for the events: SETTLE need not keep the 250 of each mail."""

    outcomes: Mapping[int, RecipientOutcome] = {}
    attempted: bool = True


def delay(retry: Retry, attempts: int, jitter: float) -> float:
    """Seconds to wait after the attempt number `attempts` (from 1): `initial`, doubled each time, up to `max`.

    Jitter lengthens a delay, and shortens it only where it would pass `max`.
    """
    base = min(retry.max, retry.initial * 2.0 ** min(attempts - 1, 40))
    longer = base * (1 + JITTER * jitter)
    return longer if longer <= retry.max else retry.max * (1 - JITTER * jitter)


def wants(recipient: Recipient, kind: ReportKind) -> bool:
    """Whether the sender asked to be told this about the recipient (RFC 3461 4.1)."""
    return _NOTIFY_FOR[kind] in (recipient.notify or _DEFAULT_NOTIFY)


def decide(work: Work, outcomes: Mapping[int, RecipientOutcome], terms: Terms) -> Decided:
    """What becomes of each recipient of `work`, given an outcome for each."""
    ticket = work.ticket
    attempts = work.attempts_made + terms.attempted
    held = ticket.held_total if ticket is not None else 0.0
    # RFC 4865 4: the time that the sender asked for a mail to be kept is not part of its lifetime.
    born = max(work.mail.accepted, work.mail.not_before) + held
    expiry = born + terms.retry.expire_after
    tried = attempts > 0 or terms.site_tried
    expired = tried and terms.clocks_agree and work.now >= expiry

    settled: list[Settled] = []
    waiting: list[int] = []
    for index in work.indexes:
        outcome = outcomes[index]
        if outcome.result == "deferred" and not expired:
            waiting.append(index)
        else:
            result: Result = "expired" if outcome.result == "deferred" else outcome.result
            settled.append(Settled(index, result, outcome.reply))
    owed = reports(work, settled, final=terms.final)
    slim = _slim(settled)
    if not waiting:
        return Decided(settled=slim, owed=owed, outcomes=outcomes, attempted=terms.attempted)

    told = ticket is not None and ticket.delay_notified
    notice_at = born + terms.retry.notify_delay_after
    may_notify = not told and 0 < terms.retry.notify_delay_after < terms.retry.expire_after
    notice: Report | None = None
    if may_notify and terms.clocks_agree and work.now >= notice_at:
        notice = _delay_report(work, waiting, outcomes, expiry)
        told = True
    if terms.attempted:
        at = work.now + delay(terms.retry, attempts, terms.jitter)
        # The attempts that decide about the notice and the end are made when these fall due, not up to `max` later.
        for moment in (notice_at if may_notify and not told else 0.0, expiry):
            if work.now < moment < at:
                at = moment
    else:
        at = terms.again_at
    wait = Wait(
        indexes=tuple(waiting),
        at=at,
        pool=terms.pool,
        lane=terms.lane,
        attempt=attempts,
        last=_last(outcomes, waiting, ticket),
        held_total=held,
        delay_notified=told,
        first_attempt=_first_attempt(work, terms.attempted),
    )
    return Decided(settled=slim, owed=owed, delay=notice, wait=wait, outcomes=outcomes, attempted=terms.attempted)


def end(work: Work, result: Literal["failed", "deleted"], reply: Reply) -> Decision:
    """Every recipient that remains ends by somebody's order: "failed" is reported to the sender, "deleted" is not."""
    settled = [Settled(index, result, reply) for index in work.indexes]
    owed = reports(work, settled, final=False)
    return Decision(settled=tuple(settled), owed=owed)


def keep(work: Work, wait_at: float, *, pool: str, lane: str) -> Wait:
    """All of the work as it is, for later or elsewhere: no attempt was made and nothing was learned."""
    ticket = work.ticket
    return Wait(
        indexes=work.indexes,
        at=wait_at,
        pool=pool,
        lane=lane,
        attempt=work.attempts_made,
        last=ticket.last if ticket is not None else None,
        held_total=ticket.held_total if ticket is not None else 0.0,
        delay_notified=ticket is not None and ticket.delay_notified,
        first_attempt=ticket.first_attempt if ticket is not None else 0.0,
    )


def reports(work: Work, settled: Iterable[Settled], *, final: bool) -> tuple[Report, ...]:
    """The DSNs that are now owed: at most one of each kind, about those whose NOTIFY asks for it."""
    if not work.mail.sender or work.mail.kind == "dsn":
        return ()
    by_kind: dict[ReportKind, list[Settled]] = {}
    for one in settled:
        kind = "success" if one.result == "delivered" and final else _KIND_OF.get(one.result)
        if kind is not None and wants(work.recipients[one.index], kind):
            by_kind.setdefault(kind, []).append(one)
    return tuple(
        Report(ids.dsn_id(work.mail.id, [one.index for one in about], kind), kind, tuple(about))
        for kind, about in by_kind.items()
    )


def _delay_report(
    work: Work, waiting: list[int], outcomes: Mapping[int, RecipientOutcome], expiry: float
) -> Report | None:
    if not work.mail.sender or work.mail.kind == "dsn":
        return None
    about = [
        Settled(index, "deferred", outcomes[index].reply) for index in waiting if wants(work.recipients[index], "delay")
    ]
    if not about:
        return None
    ident = ids.dsn_id(work.mail.id, (about[0].index,), "delay")
    return Report(ident, "delay", tuple(about), will_retry_until=expiry)


def _slim(settled: list[Settled]) -> tuple[Settled, ...]:
    """Outcomes as SETTLE keeps them: a reply where it tells why something failed; the 250s are in the events."""
    return tuple(Settled(one.index, one.result) if one.result in ("delivered", "relayed") else one for one in settled)


def _last(outcomes: Mapping[int, RecipientOutcome], waiting: list[int], ticket: Ticket | None) -> Reply | None:
    reply = outcomes[waiting[0]].reply
    if reply.text or reply.code:
        return reply
    return ticket.last if ticket is not None else None


def _first_attempt(work: Work, attempted: bool) -> float:
    earlier = work.ticket.first_attempt if work.ticket is not None else 0.0
    return earlier or (work.now if attempted else 0.0)
