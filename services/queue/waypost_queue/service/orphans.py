"""Bodies that no mail needs any more: kills between an ack and the body check leave them in SPOOL.

A body is touched only if it was stored more than an hour before the oldest message of its shard's INTAKE, so that no
bundle can name it, and no ticket does; mail only ever moves from bundles to tickets, and both are asked in that order.
While a bundle is held whole nothing is swept in its shard: nobody knows which bodies it names.
"""

from typing import Final

import opentelemetry.metrics
import structlog

from waypost_queue import listing, subjects
from waypost_queue.store import Store, parse_time

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

ORPHANS = _meter.create_counter(
    "waypost.sweep.orphans", unit="{mail}", description="Bodies deleted because neither bundle nor ticket needs them"
)

MARGIN: Final = 3600.0  # s before the oldest INTAKE message
AT_ONCE: Final = 1_000_000  # bodies looked at in one pass, about 80 octets of memory each


class Suspects:
    """The bodies of a shard that are old enough, before and after a pass over the tickets."""

    def __init__(self, shard: int, mails: set[str], before: float) -> None:
        self.shard = shard
        self.mails = mails
        self._before = before

    async def purge(self, store: Store) -> None:
        """Deletes those that are left in `mails`, each after another look on the leader. Raises StoreError."""
        queue, spool = subjects.queue_stream(self.shard), subjects.spool_stream(self.shard)
        for mail in self.mails:
            if await store.last(queue, f"q{self.shard}.*.*.*.*.{mail}.*") is not None:
                continue
            body = await store.last(spool, subjects.spool_all(self.shard, mail))
            if body is None or body.time >= self._before:
                continue
            await store.api(f"STREAM.PURGE.{spool}", {"filter": subjects.spool_all(self.shard, mail)})
            ORPHANS.add(1)
            log.info("sweep.orphan", mail=mail, stored=body.time)


async def suspects(store: Store, shard: int, now: float, margin: float = MARGIN) -> Suspects:
    """Mails with a body in SPOOL that were accepted `margin` seconds before anything that INTAKE still holds."""
    state = (await store.api(f"STREAM.INFO.{subjects.intake_stream(shard)}"))["state"]
    oldest = parse_time(state["first_ts"]) if state["messages"] else now
    before = oldest - margin
    mails: set[str] = set()
    async for subject, _ in listing.stream_subjects(store, subjects.spool_stream(shard), f"spool{shard}.>"):
        mail = subject.split(".")[1]
        if listing.stored_mail_time(mail) < before:
            mails.add(mail)
            if len(mails) >= AT_ONCE:
                break
    return Suspects(shard, mails, before)
