"""Lanes without a consumer: their mail is silently stuck, since nobody is asked to take it.

Each lane of each configured pool has its consumers from the start; one that was lost, or whose pool is known to mail
but not to the layout, is made here. A pool that no delivery process serves shows in the statistics instead.
"""

from typing import Any

import opentelemetry.metrics
import structlog
from msgspec import structs

from waypost_queue import listing, subjects
from waypost_queue.store import Store
from waypost_queue.streams import MAX_CONSUMERS_PER_STREAM, Layout, consumer_configs

from . import admin

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

CONSUMERS_MADE = _meter.create_counter(
    "waypost.sweep.consumers", unit="{consumer}", description="Consumers made for lanes that held mail and had none"
)


class Lanes:
    """The sweep of one shard's lanes."""

    def __init__(self, store: Store, shard: int, layout: Layout) -> None:
        self._store = store
        self._shard = shard
        self._layout = layout

    async def sweep(self, ready: set[tuple[str, str]]) -> None:
        """Makes what is missing. `ready`: the (pool, lane) pairs that have ready tickets. Raises StoreError."""
        intake, queue = subjects.intake_stream(self._shard), subjects.queue_stream(self._shard)
        with_bundles = await self._lanes_with_bundles()
        pools = tuple(sorted({*self._layout.pools, *(pool for pool, _ in with_bundles | ready)}))
        wanted = consumer_configs(structs.replace(self._layout, shards=self._shard + 1, pools=pools))
        for stream, lanes in ((intake, with_bundles), (queue, ready)):
            found = await admin.consumers(self._store, stream)
            needed = {subjects.intake_consumer(pool, lane) for pool, lane in lanes}
            for of_stream, config in wanted:
                name = config["name"]
                configured = name.rpartition("-")[0] in self._layout.pools
                if of_stream == stream and name not in found and (configured or name in needed):
                    await self._make(stream, config, len(found))

    async def _make(self, stream: str, config: dict[str, Any], existing: int) -> None:
        if existing >= MAX_CONSUMERS_PER_STREAM:
            log.error("sweep.too_many_consumers", stream=stream, consumer=config["name"], limit=existing)
            return
        if await admin.ensure_consumer(self._store, stream, config):
            CONSUMERS_MADE.add(1)
            log.warning("sweep.consumer_made", stream=stream, consumer=config["name"])

    async def _lanes_with_bundles(self) -> set[tuple[str, str]]:
        """The lanes that hold bundles, looked for only when the stream holds more than its consumers know of."""
        stream = subjects.intake_stream(self._shard)
        known = sum(
            info["num_pending"] + info["num_ack_pending"]
            for info in (await admin.consumers(self._store, stream)).values()
        )
        state = (await self._store.api(f"STREAM.INFO.{stream}"))["state"]
        lanes: set[tuple[str, str]] = set()
        if state["messages"] > known:
            async for subject, _ in listing.stream_subjects(self._store, stream, f"intake{self._shard}.>"):
                _, pool, lane, _ = subject.split(".")
                lanes.add((pool, lane))
        return lanes
