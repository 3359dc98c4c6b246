"""What delivery tells the world about a mail: each attempt with its dialogue, each end, each wait, each DSN. Pure.

The ids of events about a DSN are derived from its own: recovery may make the same DSN again, and history counts one.
"""

from collections.abc import Iterable, Iterator

from waypost_queue.eventlog import new_id
from waypost_queue.events import Event, EventKind, RecipientResult
from waypost_queue.model import Mail, Report, Result, Settled
from waypost_queue.work import Decision, Wait, Work

from .schedule import Decided
from .transport import Attempted


def attempt(work: Work, attempted: Attempted, at: float) -> Event:
    """One attempt of a group."""
    return Event(
        id=new_id(),
        kind="attempt",
        at=at,
        mail=work.mail.id,
        tenant=work.mail.tenant,
        domain=work.mail.domain,
        destination=work.domain,
        site=attempted.site,
        pool=work.pool,
        sender=work.mail.sender,
        recipients=tuple(
            RecipientResult(index, work.recipients[index].address, outcome.result, outcome.reply)
            for index, outcome in attempted.results.items()
        ),
        mail_kind=work.mail.kind,
        attempt=work.attempts_made + 1,
        duration=attempted.duration,
        tls=attempted.tls,
        local_address=attempted.local_address,
        dialogue=attempted.dialogue,
    )


def settled(work: Work, decision: Decision, at: float) -> Iterator[Event]:
    """What a stored decision means: an event for each kind of end, and one for what waits."""
    by_result: dict[Result, list[RecipientResult]] = {}
    for one in decision.settled:
        by_result.setdefault(one.result, []).append(_result(work, decision, one))
    for result, recipients in by_result.items():
        if result != "deferred":
            yield _group_event(work, result, at, recipients, attempts=_attempts(work, decision))
    if decision.wait is not None:
        yield from _waiting(work, decision, decision.wait, at)


def _waiting(work: Work, decision: Decision, wait: Wait, at: float) -> Iterator[Event]:
    recipients = [_result(work, decision, Settled(index, "deferred", wait.last)) for index in wait.indexes]
    if wait.hold is not None:
        yield _group_event(work, "held", at, recipients, attempts=wait.attempt, text=wait.hold.reason, by=wait.hold.by)
    elif wait.attempt > work.attempts_made or work.ticket is None:
        # A ticket that only waits on for its turn is no news: a large backlog would fill the history with them.
        yield _group_event(work, "deferred", at, recipients, attempts=wait.attempt, next_attempt=wait.at)


def _result(work: Work, decision: Decision, one: Settled) -> RecipientResult:
    reply = one.reply
    if isinstance(decision, Decided) and one.index in decision.outcomes:
        reply = decision.outcomes[one.index].reply
    return RecipientResult(one.index, work.recipients[one.index].address, one.result, reply)


def _attempts(work: Work, decision: Decision) -> int:
    if decision.wait is not None:
        return decision.wait.attempt
    attempted = isinstance(decision, Decided) and decision.attempted
    return work.attempts_made + attempted


def _group_event(
    work: Work,
    kind: EventKind,
    at: float,
    recipients: Iterable[RecipientResult],
    *,
    attempts: int,
    next_attempt: float = 0.0,
    text: str = "",
    by: str = "",
) -> Event:
    mail = work.mail
    return Event(
        id=new_id(),
        kind=kind,
        at=at,
        mail=mail.id,
        tenant=mail.tenant,
        domain=mail.domain,
        destination=work.domain,
        pool=work.pool,
        sender=mail.sender,
        recipients=tuple(recipients),
        size=mail.size,
        mail_kind=mail.kind,
        about=mail.about,
        attempt=attempts,
        next_attempt=next_attempt,
        text=text,
        by=by,
    )


def reported(work: Work, report: Report, dsn: Mail, at: float) -> tuple[Event, Event]:
    """A DSN: for the mail that it is about, and as a mail of its own."""
    about = Event(
        id=f"dsn-{dsn.id}",
        kind="dsn",
        at=at,
        mail=work.mail.id,
        tenant=work.mail.tenant,
        domain=work.mail.domain,
        destination=work.domain,
        recipients=tuple(
            RecipientResult(one.index, work.recipients[one.index].address, one.result, one.reply)
            for one in report.recipients
        ),
        related=dsn.id,
        text=report.kind,
    )
    accepted = Event(
        id=f"accepted-{dsn.id}",
        kind="accepted",
        at=at,
        mail=dsn.id,
        tenant=dsn.tenant,
        domain=dsn.domain,
        pool=work.pool,
        sender=dsn.sender,
        addresses=tuple(recipient.address for recipient in dsn.recipients),
        size=dsn.size,
        subject=dsn.subject,
        message_id=dsn.message_id,
        source=dsn.source,
        mail_kind=dsn.kind,
        about=dsn.about,
    )
    return about, accepted
