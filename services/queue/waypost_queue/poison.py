"""What can't be read is held as it is, with the reason; it is never dropped and never blocks a lane.

A held original carries three headers of ours (nothing that came from outside): why, in which words, and since when it
is in the queue. A ticket keeps its place in its group; a bundle is held whole at `...=.bundle-<seq>.0`, and its release
publishes it to INTAKE again.
"""

import opentelemetry.metrics
import structlog

from . import subjects
from .codec import NewerFormatError, UndecodableError
from .job import Job
from .subjects import TicketSubject
from .tickets import FAR, fence, schedule_time

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
HELD = _meter.create_counter(
    "waypost.queue.holds",
    unit="{message}",
    description="Messages held by the queue itself, by cause (format, poison, body). Alert on any.",
)

CAUSE_HEADER = "Waypost-Cause"
REASON_HEADER = "Waypost-Reason"
TIME_HEADER = "Waypost-Origin-Time"  # Unix seconds, the stream time of the original
MAX_REASON = 300  # characters


async def hold_unreadable(job: Job, error: UndecodableError) -> None:
    """Stores the message as it is in hold, fenced; the caller acks the original. Raises OwnershipLostError."""
    held, shard = job.held, job.shard
    if job.lane.kind == "bundle":
        group = subjects.group_any(shard, "", f"bundle-{held.seq}", 0)
        subject = subjects.held_bundle(shard, job.pool, job.lane.name, held.seq)
        target = f"q{shard}.ready.{job.pool}.{job.lane.name}.=.bundle-{held.seq}.0"
        sequence = 0
        if await job.shared.store.last(subjects.queue_stream(shard), group) is not None:
            return  # an earlier owner held it, and was gone before its ack
    else:
        place = TicketSubject(held.subject)
        rest = f"{place.pool}.{place.lane}.{place.domain_token}.{place.mail}.{place.n}"
        group = f"q{shard}.*.*.*.{place.domain_token}.{place.mail}.{place.n}"
        subject, target, sequence = f"q{shard}.hold.{rest}", held.subject, held.seq
    reason = "".join(c if " " <= c <= "~" else "?" for c in str(error))[:MAX_REASON]
    headers = {
        "Nats-Schedule": schedule_time(FAR),
        "Nats-Schedule-Target": target,
        CAUSE_HEADER: "format" if isinstance(error, NewerFormatError) else "poison",
        REASON_HEADER: reason,
        TIME_HEADER: f"{held.time:.3f}",
        **fence(sequence, group),
    }
    log.error("poison.unreadable", kind=job.lane.kind, subject=held.subject, seq=held.seq, reason=reason)
    await job.publish(subject, held.data, headers, "hold_wire")
    HELD.add(1, {"cause": headers[CAUSE_HEADER]})
