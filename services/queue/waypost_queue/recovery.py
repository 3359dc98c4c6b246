"""Delivered again: what became of a message that may have been in other hands.

The order of the steps was found by killing; each has a test that fails when it is left out.

1. Keep-alive first; within a second of a reconnect, wait that second: others' outcomes get in.
2. The last message of each group: another than this one, and no guard, is a successor: the group is done with.
3. Then one scan of SETTLE up to its end. The other order misses a ticket that is delivered and acked in between.
4. DSNs that are owed are stored, unless they are already (`reports`).
5. Recipients with an outcome are skipped. What is left of a bundle's group is barred by a guard (`tickets.bar`), and
   SETTLE is looked at once more: an earlier owner's ticket may have come and gone before the guard. A ticket that was
   returned is replaced by a successor (`engine`), which shuts every earlier owner out.
"""

import asyncio
import time
from collections.abc import Sequence

import opentelemetry.metrics
import structlog

from . import subjects
from .errors import StoreError
from .job import Group, Job
from .outcomes import Outcomes
from .pause import reached
from .store import Stored

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
RECOVERED = _meter.create_counter(
    "waypost.queue.recovered", unit="{message}", description="Messages that went through recovery, by kind."
)

SCAN_FIRST = 16  # groups; from here on a first scan spares the look-ups of those that are done
AT_ONCE = 32  # look-ups


async def recover(job: Job, groups: Sequence[Group], after: int = 0) -> Outcomes:
    """Steps 1 to 3 for the groups of a message: sets `last` and `successor` of each; what SETTLE says about them.

    `after`: SETTLE is known up to this sequence (a marked ticket's). Raises StoreError and OwnershipLostError.
    """
    shared, held = job.shared, job.held
    job.recovered = True
    RECOVERED.add(1, {"kind": job.lane.kind})
    log.info("recovery.start", kind=job.lane.kind, seq=held.seq, deliveries=held.deliveries, groups=len(groups))
    reached("rec_start")
    await held.renew(shared.keep_alive.timeout)
    reconnected = shared.store.reconnected_at
    if reconnected is not None:
        await asyncio.sleep(max(0.0, reconnected + shared.timing.grace_after_reconnect - time.monotonic()))
    held.need()

    scanner = shared.scanner(job.shard)
    mails = {group.mail.id for group in groups}
    since = job.stored_at - shared.timing.settle_window
    outcomes = None
    asked: Sequence[Group] = groups
    if len(groups) >= SCAN_FIRST:
        outcomes = await scanner.scan(mails, since, after)
        first = outcomes
        asked = [
            group for group in groups if first.rest(group.mail.id, group.indexes) or first.owed(group.mail.id, group.n)
        ]
    for start in range(0, len(asked), AT_ONCE):
        await asyncio.gather(*(_look(job, group) for group in asked[start : start + AT_ONCE]))
    reached("rec_between")
    if outcomes is None:
        outcomes = await scanner.scan(mails, since, after)
    else:
        await scanner.refresh(outcomes)
    reached("rec_after_scan")
    job.outcomes = outcomes
    held.need()
    return outcomes


async def _look(job: Job, group: Group) -> None:
    """Step 2 for one group."""
    last = await job.shared.store.last(
        subjects.queue_stream(job.shard), subjects.group_any(job.shard, group.domain, group.mail.id, group.n)
    )
    group.last = 0 if last is None else last.seq
    mine = group.fence if group.ticket is not None else 0
    group.successor = last is not None and last.seq != mine and not is_guard(last)


def is_guard(stored: Stored) -> bool:
    return stored.subject.split(".", 2)[1] == "guard"


async def check_body(job: Job, mail: str, bundle: int, groups: Sequence[tuple[str, int]]) -> None:
    """Purges the body of a mail once nothing needs it any more; what this job just acked does not count.

    One look-up a group, after the bundle's: a subject listed first and looked up later may have moved on in between.
    A failure leaves an orphan to the sweep.
    """
    store, shard, seq = job.shared.store, job.shard, job.held.seq
    from_bundle = job.lane.kind == "bundle"
    try:
        acked_just_now = from_bundle and seq == bundle
        if bundle and not acked_just_now and await store.at(subjects.intake_stream(shard), bundle) is not None:
            return
        reached("purge_between")
        for domain, n in groups:
            last = await store.last(subjects.queue_stream(shard), subjects.group_any(shard, domain, mail, n))
            if last is not None and not is_guard(last) and (from_bundle or last.seq != seq):
                return
        reached("before_purge")
        await job.shared.spool.purge(mail)
    except StoreError as error:
        log.info("bodycheck.failed", mail=mail, error=str(error), effect="the sweep takes the body")
