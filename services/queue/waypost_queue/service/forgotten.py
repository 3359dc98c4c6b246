"""Messages that the server has forgotten: in the stream, at or below their consumer's ack floor, delivered to nobody.

A rollup or filtered purge of what a consumer has in hand makes it forget others, and so, users report, do power cuts
and changes of leader. For each lane one look-up finds the first message of its filter; if the consumer's ack floor has
passed it, and still has after two `ack_wait`, the consumer will never deliver it. It is published again, marked
"recover me": whoever gets it finds out from SETTLE and QUEUE what was done, so that nothing is sent twice.
"""

import time
from typing import Any

import opentelemetry.metrics
import structlog
from msgspec import structs

from waypost_queue import listing, subjects
from waypost_queue.errors import ApiError, FencedError, FullError
from waypost_queue.model import Ticket
from waypost_queue.store import Store, Stored
from waypost_queue.streams import Timing

from . import admin, moves
from .copies import Copies

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

FORGOTTEN = _meter.create_counter(
    "waypost.sweep.forgotten",
    unit="{message}",
    description="Messages that their consumer had forgotten, published again by the sweep, by kind (bundle, ticket)",
)

AT_ONCE = 1000  # of one lane in one pass


class Forgotten:
    """The sweep of one shard. A suspect is healed when it has been one for `wait` seconds."""

    def __init__(self, store: Store, shard: int, timing: Timing, copies: Copies) -> None:
        self._store = store
        self._shard = shard
        self._wait = 2 * timing.ack_wait
        self._copies = copies
        self._since: dict[tuple[str, int], float] = {}  # (stream, sequence) -> monotonic time of first suspicion

    async def sweep(self) -> None:
        """One look at each lane, and at the copies under way. Raises StoreError."""
        suspects: dict[tuple[str, int], Stored] = {}
        for stream in (subjects.intake_stream(self._shard), subjects.queue_stream(self._shard)):
            for info in (await admin.consumers(self._store, stream)).values():
                for stored in await self._below_floor(stream, info):
                    suspects[stream, stored.seq] = stored
        now = time.monotonic()
        self._since = {key: self._since.get(key, now) for key in suspects}
        for (stream, seq), stored in suspects.items():
            if now - self._since[stream, seq] < self._wait:
                continue
            try:
                if stream == subjects.intake_stream(self._shard):
                    await self._bundle(stored)
                else:
                    await self._ticket(stored)
            except FullError:
                break  # nothing can be stored now; it stays a suspect
            except ApiError as error:  # one that the server refuses must not keep the others
                log.error("sweep.forgotten_refused", subject=stored.subject, seq=seq, error=str(error))
        await self._copies.settle()

    async def _below_floor(self, stream: str, info: dict[str, Any]) -> list[Stored]:
        """What the stream holds of a consumer's filter at or below its ack floor: acked just now, or forgotten."""
        floor = info["ack_floor"]["stream_seq"]
        pattern = info["config"]["filter_subject"]
        found: list[Stored] = []
        seq = 1
        while seq <= floor and len(found) < AT_ONCE:
            stored = await self._store.next(stream, seq, pattern)
            if stored is None or stored.seq > floor:
                break
            found.append(stored)
            seq = stored.seq + 1
        return found

    async def _bundle(self, stored: Stored) -> None:
        if await self._copies.publish_again(stored):
            FORGOTTEN.add(1, {"kind": "bundle"})
            log.warning("sweep.forgotten", kind="bundle", subject=stored.subject, seq=stored.seq, stored=stored.time)

    async def _ticket(self, stored: Stored) -> None:
        """Published again at its own subject, fenced by its own sequence; then the forgotten one is deleted."""
        found = listing.read(stored)
        payload: Ticket | bytes = found.data
        if not found.problem:
            payload = structs.replace(
                found.ticket,
                marked=True,
                origin_seq=found.ticket.origin_seq or stored.seq,
                origin_time=found.ticket.origin_time or stored.time,
            )
        move = moves.again(stored.subject, stored.seq, payload)
        try:
            await moves.publish(self._store, move)
            FORGOTTEN.add(1, {"kind": "ticket"})
            log.warning(
                "sweep.forgotten", kind="ticket", mail=found.ticket.mail.id, subject=stored.subject, seq=stored.seq
            )
        except FencedError:
            last = await self._store.last(subjects.queue_stream(self._shard), moves.group_of(stored.subject))
            if last is None or last.seq <= stored.seq or ".guard." in last.subject:
                return
            # its successor is stored, so all of it was settled: only the message is left over
        await moves.delete(self._store, subjects.queue_stream(self._shard), stored.seq)
