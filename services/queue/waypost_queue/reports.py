"""DSNs of a group: accepted as new mails before its ticket, each at most once.

Its id is derived from whom it reports, and its publish is fenced by that id whatever the pool, so two owners store one.
The dedupe window alone is no guard. Recovery first looks where an earlier owner's may be by now: in INTAKE, else in
QUEUE, else done, its outcome in SETTLE; in this order, which is the way a mail goes.
"""

import asyncio
from collections.abc import Sequence

import opentelemetry.metrics
from msgspec import structs

from . import codec, ids, subjects
from .errors import ApiError, FencedError, FullError, OwnershipLostError, UnavailableError, UnknownFateError
from .job import RETRY_AFTER, Group, Job
from .model import Bundle, Mail, Report
from .pause import reached
from .tickets import fence
from .work import Work

_meter = opentelemetry.metrics.get_meter("waypost")
REPORTS = _meter.create_counter(
    "waypost.queue.dsns",
    unit="{mail}",
    description="DSNs by kind and what became of them (stored, known: an earlier owner's, refused: no room in INTAKE).",
)

INLINE_DSN = 1024 * 1024  # octets of a DSN in its own INTAKE message; a larger one goes to the spool


async def outstanding(job: Job, group: Group, owed: Sequence[Report]) -> tuple[Report, ...]:
    """What recovery has to tell of the DSNs that settlements of a group owe, in the order of SETTLE.

    Two owners may each have had an answer about a recipient (one stood still while it waited for the remote's reply),
    and both answers are on disk. The recipient is told about once: not again where a DSN that is stored names it, nor
    where the group does not have it any more, since whoever stored its ticket settled it.
    """
    told: set[int] = set()
    unknown = []
    for report in owed:
        if len(owed) > 1 and await known(job, report.id):
            told.update(settled.index for settled in report.recipients)
        else:
            unknown.append(report)
    left = []
    for report in unknown:
        about = tuple(
            settled for settled in report.recipients if settled.index in group.recipients and settled.index not in told
        )
        indexes = [settled.index for settled in about]
        told.update(indexes)
        if len(about) == len(report.recipients):
            left.append(report)
        elif about:
            ident = ids.dsn_id(group.mail.id, indexes, report.kind)
            left.append(structs.replace(report, id=ident, recipients=about))
    return tuple(left)


async def publish_all(job: Job, work: Work, reports: Sequence[Report]) -> tuple[Report, ...]:
    """Stores the DSNs; those that INTAKE has no room for are returned: their ticket owes them.

    Raises OwnershipLostError when it is not known whether one is stored, and what `handler.report` raises.
    """
    left = []
    for report in reports:
        if not await _publish(job, work, report):
            REPORTS.add(1, {"kind": report.kind, "result": "refused"})
            left.append(report)
    return tuple(left)


async def _publish(job: Job, work: Work, report: Report) -> bool:
    job.held.need()
    if job.recovered and await known(job, report.id):
        REPORTS.add(1, {"kind": report.kind, "result": "known"})
        return True
    mail = await job.shared.handler.report(work, report)
    if mail.id != report.id:
        raise ValueError(f"the DSN for {report.id} has the id {mail.id}: both must be the report's")
    try:
        mail = await _small(job, mail)
    except FullError:
        return False
    payload = codec.encode(Bundle(mails=(mail,)))
    subject = subjects.intake(job.shard, job.pool, subjects.PRIO, report.id)
    headers = {"Nats-Msg-Id": report.id, **fence(0, subjects.intake_any(job.shard, report.id))}
    while True:
        job.held.need()
        reached("dsn_wire")
        try:
            await job.shared.store.publish(subject, payload, headers)
        except FencedError:
            REPORTS.add(1, {"kind": report.kind, "result": "known"})
            break  # it is still in INTAKE: stored already
        except FullError:
            return False
        except UnavailableError:
            await asyncio.sleep(RETRY_AFTER)  # nothing was stored
            continue
        except (UnknownFateError, ApiError) as error:
            raise OwnershipLostError(str(error)) from error
        REPORTS.add(1, {"kind": report.kind, "result": "stored"})
        break
    reached("after_dsn")
    return True


async def _small(job: Job, mail: Mail) -> Mail:
    """The DSN with its content in the spool if that is too large for one message."""
    if mail.content is None or len(mail.content) <= INLINE_DSN:
        return mail
    try:
        chunks = await job.shared.spool.put(mail.id, mail.content)
    except (UnavailableError, UnknownFateError) as error:
        raise OwnershipLostError(str(error)) from error
    return structs.replace(mail, content=None, chunks=chunks)


async def known(job: Job, dsn: str) -> bool:
    """Whether a DSN was stored by an earlier owner, wherever it is by now. Asked of the leaders."""
    store, shard = job.shared.store, job.shard
    if await store.last(subjects.intake_stream(shard), subjects.intake_any(shard, dsn)) is not None:
        return True
    reached("dsn_check")
    if await store.last(subjects.queue_stream(shard), f"q{shard}.*.*.*.*.{dsn}.*") is not None:
        return True
    done = await job.shared.scanner(shard).scan((dsn,), job.stored_at - job.shared.timing.settle_window)
    return done.any(dsn)
