"""Settling one group, in the order that loses nothing.

1. Delivered and permanently failed recipients go to SETTLE, with the DSNs now owed. Never a deferral.
2. The DSNs.
3. What must wait: the body to the spool, then the ticket, last: it says that 1 and 2 are done.

The bundle or ticket itself is acked by `engine`, once all its groups are settled.
"""

import structlog
from msgspec import structs

from . import tickets
from .job import Group, Job
from .model import ControlMark, Hold, Report, Settlement
from .pause import reached
from .poison import HELD
from .reports import publish_all
from .work import BodyMissingError, Decision, Wait, Work

log = structlog.get_logger(__name__)

OWED_AGAIN = 60.0  # s until a ticket that owes a DSN asks INTAKE again


def check(work: Work, decision: Decision) -> None:
    """Raises ValueError unless every recipient of the work is in exactly one place of the decision."""
    placed = [settled.index for settled in decision.settled]
    if decision.wait is not None:
        placed.extend(decision.wait.indexes)
    if sorted(placed) != sorted(work.indexes):
        raise ValueError(f"a decision about the recipients {work.indexes} places {tuple(placed)}: each once, no other")
    if any(settled.result == "deferred" for settled in decision.settled):
        raise ValueError("a deferral is no outcome: it belongs into `wait`")


async def settle(job: Job, group: Group, work: Work, decision: Decision) -> Work | None:
    """Stores what was decided about a group.

    Returns the work that remains when a control mark that came meanwhile wants the waiting recipients to be decided
    anew (bounce, delete), else None: the group is done. Raises OwnershipLostError and what `handler.report` raises.
    """
    check(work, decision)
    if decision.settled:
        await job.shared.settler(job.shard).put(
            Settlement(mail=work.mail.id, n=work.n, outcomes=decision.settled, owed=decision.owed)
        )
        reached("after_settle")
    reports = decision.owed if decision.delay is None else (*decision.owed, decision.delay)
    wait = decision.wait
    left: tuple[Report, ...] = ()
    if reports:
        try:
            left = await publish_all(job, work, reports)
        except BodyMissingError as error:
            rest = structs.replace(work, indexes=wait.indexes if wait is not None else ())
            left, wait = reports, hold_body_missing(job, rest, error, wait)
            decision = structs.replace(decision, wait=wait)
    again = None
    if wait is not None:
        mark = job.shared.mark(work.mail.id, work.domain)
        if mark is not None and mark != work.mark:
            if mark.action in ("bounce", "delete"):
                again = mark
            else:
                wait = _heed(wait, mark, job.now)
                decision = structs.replace(decision, wait=wait)
    if again is not None and wait is not None and not left:
        job.shared.handler.settled(work, structs.replace(decision, wait=None, delay=None))
        ticket = tickets.replaced(job, work, wait, ())
        group.ticket = ticket
        return structs.replace(work, indexes=wait.indexes, ticket=ticket, mark=again, now=job.now)
    if wait is not None or left:
        if wait is None:
            wait = _owing(work, job)
        await store_waiting(job, group, work, wait, left)
    job.shared.handler.settled(work, decision)
    return None


async def store_waiting(job: Job, group: Group, work: Work, wait: Wait, left: tuple[Report, ...] = ()) -> None:
    """Step 3: body, then ticket."""
    if left and wait.hold is None:
        wait = structs.replace(wait, at=min(wait.at, job.now + OWED_AGAIN))
    work = structs.replace(work, mail=await job.keep_body(work.mail))
    group.fence = await tickets.store(job, tickets.replaced(job, work, wait, left), group.fence)
    reached("resched" if work.ticket is not None else "after_ticket")


def hold_body_missing(job: Job, work: Work, error: BodyMissingError, wait: Wait | None = None) -> Wait:
    """A mail whose body is in no store is held with an alarm, never dropped."""
    log.error("body.missing", mail=work.mail.id, destination=work.domain, effect="held")
    HELD.add(1, {"cause": "body"})
    hold = Hold(cause="body", reason=str(error)[:300] or "its body is in no store", since=job.now)
    if wait is not None:
        return structs.replace(wait, hold=hold)
    return tickets.held_wait(work, hold)


def _owing(work: Work, job: Job) -> Wait:
    """A ticket for nobody, which only owes its DSNs."""
    return Wait(
        indexes=(),
        at=job.now + OWED_AGAIN,
        pool=work.pool,
        lane=job.shared.handler.lane_for_retry(work.mail),
        attempt=work.attempts_made,
    )


def _heed(wait: Wait, mark: ControlMark, now: float) -> Wait:
    """The wait as a mark that came during the attempt wants it."""
    if mark.action == "hold" and wait.hold is None:
        return structs.replace(wait, hold=Hold(cause="person", reason=mark.reason, since=now, by=mark.by))
    if mark.action == "retry" and wait.hold is None:
        return structs.replace(wait, at=now)
    return wait
