"""Two faults of tickets that wait: a schedule that is overdue, and two entries of one group.

A schedule that fell due while the store was full may never fire: it is published again at its own subject, due now. (To
make it ready by a publish could race with the server, which may fire it just then; two schedules at one subject can't
both fire.) Of two waiting entries of one group (an old schedule that was not taken away) the older would send the
mail a second time: the newest was fenced on the whole group, so it is the truth, and what waits beside it goes.
"""

import opentelemetry.metrics
import structlog

from waypost_queue import listing, subjects
from waypost_queue.errors import ApiError, FencedError, FullError
from waypost_queue.store import Store
from waypost_queue.subjects import TicketSubject

from . import moves
from .census import Census

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

OVERDUE = _meter.create_counter(
    "waypost.sweep.overdue",
    unit="{ticket}",
    description="Tickets whose schedule did not fire, scheduled anew by the sweep",
)
SUPERSEDED = _meter.create_counter(
    "waypost.sweep.superseded",
    unit="{ticket}",
    description="Waiting tickets deleted because a newer ticket of the same mail and destination was stored",
)

OVERDUE_AFTER = 60.0  # s


async def heal(store: Store, census: Census, now: float) -> None:
    """Heals what a pass suspected, after another look on the leader. `now`: the stream's clock. Raises StoreError."""
    stream = subjects.queue_stream(census.shard)
    for group in census.crowded:
        await _thin_out(store, stream, census.shard, group)
    for subject, seq in census.overdue:
        try:
            await _fire(store, stream, subject, seq, now)
        except FencedError:
            log.debug("sweep.fired_meanwhile", subject=subject, seq=seq)
        except FullError:
            raise  # nothing can be stored now; the next pass comes to it
        except ApiError as error:  # one that the server refuses must not keep the others
            log.error("sweep.overdue_refused", subject=subject, seq=seq, error=str(error))


async def _fire(store: Store, stream: str, subject: str, seq: int, now: float) -> None:
    stored = await store.last(stream, subject)
    if stored is None or stored.seq != seq:
        return
    found = listing.read(stored)
    if found.due:
        await moves.publish(store, moves.fire(subject, seq, found.data, now))
    else:  # no schedule at all: nothing can fire it but this
        await moves.publish(store, moves.again(moves.in_state(subject, "ready"), seq, found.data))
        await moves.delete(store, stream, seq)
    OVERDUE.add(1)
    log.warning("sweep.overdue", mail=found.ticket.mail.id, destination=found.ticket.domain, seq=seq)


async def _thin_out(store: Store, stream: str, shard: int, group: str) -> None:
    entries = await listing.entries_at(store, shard, group)
    for old in entries[:-1]:
        if TicketSubject(old.subject).state == "ready":
            continue  # perhaps in hand: only its owner touches it, and recovery sees the newer one
        await moves.delete(store, stream, old.seq)
        SUPERSEDED.add(1)
        log.warning(
            "sweep.superseded", mail=old.ticket.mail.id, destination=old.ticket.domain, seq=old.seq, by=entries[-1].seq
        )
