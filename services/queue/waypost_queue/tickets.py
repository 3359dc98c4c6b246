"""Tickets: what waits, as a schedule of JetStream itself, fenced by what it replaces.

A schedule carries no message id (a second spill inside the dedupe window would be dropped, and the mail lost) and no
rollup (removing what a consumer may have in hand loses its neighbours). A hold is a schedule far in the future.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import structs

from . import codec, subjects
from .errors import BatchRefusedError, FencedError, FullError, OwnershipLostError, StoreError, UnavailableError
from .ids import ulid
from .job import Group, Job
from .model import Hold, Report, Ticket
from .work import Wait, Work

FAR: Final = datetime(2099, 1, 1, tzinfo=UTC).timestamp()  # a time from 2263 on fires at once
BATCH_FROM: Final = 11  # below, plain publishes are cheaper than a batch's staging
BATCH_MAX: Final = 500  # guards a batch; the server takes at most 1,000 messages


def schedule_time(at: float) -> str:
    """`at` in Unix seconds as the header Nats-Schedule has it (ADR-51)."""
    moment = datetime.fromtimestamp(min(at, FAR), UTC)
    return "@at " + moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def fence(sequence: int, group: str) -> dict[str, str]:
    """The headers that let a publish in only while the group's last message is `sequence` (0: there is none)."""
    return {
        "Nats-Expected-Last-Subject-Sequence": str(sequence),
        "Nats-Expected-Last-Subject-Sequence-Subject": group,
    }


def replaced(job: Job, work: Work, wait: Wait, reports: tuple[Report, ...]) -> Ticket:
    """The ticket that says what of a group must wait, and which DSNs INTAKE had no room for."""
    old = work.ticket
    mail = work.mail
    owed_to = {
        settled.index: work.recipients[settled.index]
        for report in reports
        for settled in report.recipients
        if settled.index not in wait.indexes
    }
    return Ticket(
        mail=structs.replace(mail, recipients=tuple(work.recipients[index] for index in wait.indexes)),
        domain=work.domain,
        n=work.n,
        indexes=wait.indexes,
        attempt=wait.attempt,
        bundle=old.bundle if old is not None else job.held.seq,
        groups=old.groups if old is not None else job.groups[mail.id],
        due=FAR if wait.hold is not None else wait.at,
        lane=wait.lane,
        pool=wait.pool,
        marked=job.recovered or (old is not None and old.marked),
        origin_seq=(old.origin_seq if old is not None else 0) or (job.held.seq if job.recovered else 0),
        origin_time=job.stored_at if job.recovered else old.origin_time if old is not None else 0.0,
        scanned=job.outcomes.upto if job.outcomes is not None else 0,
        delay_notified=wait.delay_notified,
        hold=wait.hold,
        held_total=wait.held_total,
        last=wait.last,
        first_attempt=wait.first_attempt,
        dsn_owed=reports,
        owed_to=owed_to,
    )


async def store(job: Job, ticket: Ticket, sequence: int) -> int:
    """Stores a ticket in the place of `sequence`, waiting or held; its own sequence.

    The last step of settling a group: it says that the outcomes and DSNs before it are stored.
    """
    subject, payload, headers = message(job.shard, ticket, sequence)
    return await job.publish(subject, payload, headers, "ticket_wire")


def message(shard: int, ticket: Ticket, sequence: int) -> tuple[str, bytes, dict[str, str]]:
    """Subject, payload and headers of a ticket that waits or is held."""
    mail, domain, n = ticket.mail.id, ticket.domain, ticket.n
    ready = subjects.ticket("ready", shard, ticket.pool, ticket.lane, domain, mail, n)
    state: subjects.TicketState = "sched" if ticket.hold is None else "hold"
    headers = {
        "Nats-Schedule": schedule_time(ticket.due if ticket.hold is None else FAR),
        "Nats-Schedule-Target": ready,
        **fence(sequence, subjects.group_any(shard, domain, mail, n)),
    }
    subject = subjects.ticket(state, shard, ticket.pool, ticket.lane, domain, mail, n)
    return subject, codec.encode(ticket), headers


async def bar(job: Job, groups: Sequence[Group]) -> set[Group]:
    """Puts a guard on each group, in the place of what recovery saw last: no earlier owner can store a ticket any more.

    Returns the groups that are barred, each with its guard's sequence as its fence; not those that another owner has
    taken over. Raises OwnershipLostError when it is not known.
    """
    barred: set[Group] = set()
    todo = list(groups)
    while len(todo) >= BATCH_FROM:
        some, todo = todo[:BATCH_MAX], todo[BATCH_MAX:]
        job.held.need()
        try:
            last = (await job.shared.store.publish_batch(ulid(job.now), [_guard(job, group) for group in some])).seq
        except FullError:
            job.shared.room.full(job.shard)
            raise OwnershipLostError("the store is full") from None
        except (FencedError, BatchRefusedError, UnavailableError):
            barred |= await _bar_singly(job, some)
        except StoreError as error:
            raise OwnershipLostError(str(error)) from error
        else:
            for place, group in enumerate(some):
                group.fence = last - len(some) + 1 + place
            barred.update(some)
    return barred | await _bar_singly(job, todo)


async def _bar_singly(job: Job, groups: Sequence[Group]) -> set[Group]:
    barred: set[Group] = set()
    for group in groups:
        try:
            group.fence = await job.publish(*_guard(job, group), "guard_wire")
        except OwnershipLostError:
            job.held.need()
        else:
            barred.add(group)
    return barred


def _guard(job: Job, group: Group) -> tuple[str, bytes, dict[str, str]]:
    mail, domain, n = group.mail.id, group.domain, group.n
    headers = {
        "Nats-TTL": f"{job.shared.timing.guard_ttl:.0f}s",
        **fence(group.last, subjects.group_any(job.shard, domain, mail, n)),
    }
    return subjects.ticket("guard", job.shard, job.pool, job.lane.name, domain, mail, n), b"", headers


def held_wait(work: Work, hold: Hold) -> Wait:
    """A Wait that holds all of a group's work as it stands, no attempt counted."""
    ticket = work.ticket
    return Wait(
        indexes=work.indexes,
        at=FAR,
        pool=work.pool,
        lane=work.lane,
        attempt=work.attempts_made,
        last=ticket.last if ticket is not None else None,
        hold=hold,
        held_total=ticket.held_total if ticket is not None else 0.0,
        delay_notified=ticket.delay_notified if ticket is not None else False,
        first_attempt=ticket.first_attempt if ticket is not None else 0.0,
    )
