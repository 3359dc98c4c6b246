"""Statistics: what waits where, for how long, and how full the store is, as metrics and as one document.

Counts of streams and consumers are asked for every few seconds; counts by destination, tenant and cause come out of
the last pass over all tickets (census.py).
"""

from collections import Counter
from typing import Any

import opentelemetry.metrics
import structlog

from waypost_queue import subjects
from waypost_queue.listing import LaneStatistics, QueueStatistics, ShardStatistics
from waypost_queue.store import Store, parse_time
from waypost_queue.streams import DAY

from . import admin
from .census import Census

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

TICKETS = _meter.create_gauge(
    "waypost.queue.tickets", unit="{ticket}", description="Tickets by shard and state (ready, sched, hold)"
)
HELD = _meter.create_gauge("waypost.queue.held", unit="{ticket}", description="Held tickets by shard and cause")
BUNDLES = _meter.create_gauge(
    "waypost.queue.bundles", unit="{message}", description="INTAKE messages: mail before its first attempt, by shard"
)
LANES = _meter.create_gauge(
    "waypost.queue.pending",
    unit="{message}",
    description="Messages not yet delivered, by stream (intake, queue) and pool",
)
OLDEST = _meter.create_gauge(
    "waypost.queue.oldest",
    unit="s",
    description="Age of the oldest bundle and of the oldest mail with a ticket, by shard",
)
FILLED = _meter.create_gauge(
    "waypost.queue.filled",
    unit="1",
    description="Share of its limit that a stream (intake, spool, settle) holds, by shard",
)
UNSERVED = _meter.create_gauge(
    "waypost.queue.unserved", unit="{message}", description="Messages of pools from which no delivery process pulls"
)
SETTLE_AGE = _meter.create_gauge(
    "waypost.queue.settle_age",
    unit="1",
    description="Age of the oldest unfinished message over what SETTLE remembers: from 1 on mail could be sent twice",
)

TOP = 200  # destinations and tenants named in the document
SETTLE_ALARM = 0.5


class Statistics:
    """The latest figures of all shards."""

    def __init__(self, store: Store, shards: int, by: str) -> None:
        self._store = store
        self._by = by
        self._shards = {shard: ShardStatistics(shard=shard) for shard in range(shards)}
        self._census = {shard: Census(shard) for shard in range(shards)}
        self._lanes: dict[int, list[LaneStatistics]] = {}
        self._unserved: Counter[str] = Counter()

    def counted(self, census: Census) -> None:
        """Takes over what a pass over all tickets counted."""
        self._census[census.shard] = census
        for state in ("ready", "sched", "hold"):
            TICKETS.set(census.states[state], {"shard": census.shard, "state": state})
        for cause in ("person", "suspended", "dns", "poison", "format", "body"):
            HELD.set(census.held_by[cause], {"shard": census.shard, "cause": cause})

    async def refresh(self, now: float) -> None:
        """Asks streams and consumers. `now`: the stream's clock. Raises StoreError."""
        for shard in self._shards:
            self._lanes[shard] = [
                *await self._consumers(shard, "intake", subjects.intake_stream(shard)),
                *await self._consumers(shard, "queue", subjects.queue_stream(shard)),
            ]
            self._shards[shard] = await self._streams(shard, now)
        pending: Counter[tuple[str, str]] = Counter()
        self._unserved = Counter()
        for lane in (lane for lanes in self._lanes.values() for lane in lanes):
            pending[lane.stream, lane.pool] += lane.pending
            if lane.pending and not lane.in_hand and not lane.pulls:
                self._unserved[lane.pool] += lane.pending
        for (stream, pool), number in pending.items():
            LANES.set(number, {"stream": stream, "pool": pool})
            UNSERVED.set(self._unserved[pool], {"pool": pool})

    def document(self, at: float, marks: int) -> QueueStatistics:
        """The answer to `ctl.stats`."""
        destinations: Counter[str] = Counter()
        tenants: Counter[str] = Counter()
        held_by: Counter[str] = Counter()
        for census in self._census.values():
            destinations.update(census.destinations)
            tenants.update(census.tenants)
            held_by.update(census.held_by)
        return QueueStatistics(
            at=at,
            by=self._by,
            shards=tuple(self._shards.values()),
            lanes=tuple(
                lane for lanes in self._lanes.values() for lane in lanes if lane.pending or lane.in_hand or lane.pulls
            ),
            destinations=tuple(destinations.most_common(TOP)),
            tenants=tuple(tenants.most_common(TOP)),
            held_by=tuple(held_by.most_common()),
            marks=marks,
            unserved_pools=tuple(sorted(self._unserved)),
        )

    async def _consumers(self, shard: int, kind: Any, stream: str) -> list[LaneStatistics]:
        out = []
        for name, info in (await admin.consumers(self._store, stream)).items():
            pool, _, lane = name.rpartition("-")
            out.append(
                LaneStatistics(
                    shard=shard,
                    stream=kind,
                    pool=pool,
                    lane=lane,
                    pending=info["num_pending"],
                    in_hand=info["num_ack_pending"],
                    pulls=info["num_waiting"],
                )
            )
        return out

    async def _streams(self, shard: int, now: float) -> ShardStatistics:
        intake, intake_limit = await self._stream(subjects.intake_stream(shard))
        spool, spool_limit = await self._stream(subjects.spool_stream(shard))
        settle, settle_limit = await self._stream(subjects.settle_stream(shard))
        for kind, state, limit in (
            ("intake", intake, intake_limit),
            ("spool", spool, spool_limit),
            ("settle", settle, settle_limit),
        ):
            FILLED.set(state["bytes"] / limit if limit > 0 else 0.0, {"shard": shard, "stream": kind})
        oldest = parse_time(intake["first_ts"]) if intake["messages"] else 0.0
        census = self._census[shard]
        oldest_ticket = census.oldest if census.oldest != float("inf") else 0.0
        OLDEST.set(now - oldest if oldest else 0.0, {"shard": shard, "kind": "bundle"})
        OLDEST.set(now - oldest_ticket if oldest_ticket else 0.0, {"shard": shard, "kind": "ticket"})
        self._check_memory(shard, now, oldest, settle, settle_limit)
        return ShardStatistics(
            shard=shard,
            bundles=intake["messages"],
            oldest_bundle=oldest,
            intake_bytes=intake["bytes"],
            intake_limit=intake_limit,
            spool_bytes=spool["bytes"],
            spool_limit=spool_limit,
            settle_bytes=settle["bytes"],
            settle_limit=settle_limit,
            ready=census.states["ready"],
            deferred=census.states["sched"],
            held=census.states["hold"],
            undecodable=census.undecodable,
            oldest_ticket=oldest_ticket,
        )

    async def _stream(self, name: str) -> tuple[dict[str, Any], int]:
        """State, and limit in octets."""
        info = await self._store.api(f"STREAM.INFO.{name}")
        return info["state"], info["config"].get("max_bytes", -1)

    def _check_memory(self, shard: int, now: float, oldest: float, settle: dict[str, Any], limit: int) -> None:
        """Recovery reads the outcomes since a message was stored: SETTLE must remember longer than anything waits."""
        kept = 7.0 * DAY
        if limit > 0 and settle["bytes"] > 0.9 * limit:  # its cap, not its age, decides what it forgets
            kept = max(1.0, now - parse_time(settle["first_ts"]))
        share = (now - oldest) / kept if oldest else 0.0
        SETTLE_AGE.set(share, {"shard": shard})
        if share > SETTLE_ALARM:
            log.error("statistics.settle_too_short", shard=shard, oldest=now - oldest, remembers=kept)
