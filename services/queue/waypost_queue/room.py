"""Whether the store has room for outcomes and tickets.

A full store answers 10023 to every publish, while acks and deletes work. Then nothing new is pulled and no attempt
begins, also inside bundles already taken: delivered mail whose outcome can't be stored would be sent again after a
kill. What is in hand is kept by its keep-alive until there is room.
"""

import asyncio
from collections.abc import Callable

import opentelemetry.metrics
import structlog

from . import codec, subjects
from .background import end
from .errors import FullError, StoreError
from .model import SettleBatch
from .store import Store

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
FULL = _meter.create_counter(
    "waypost.queue.store_full", unit="{episode}", description="Times that delivery paused because the store was full."
)

PROBE_EVERY = 1.0  # s


class Room:
    """`wait()` returns at once while there is room; `full(shard)` says that a publish was refused for want of it."""

    def __init__(self, store: Store, resumed: Callable[[], None]) -> None:
        self._store = store
        self._resumed = resumed
        self._open = asyncio.Event()
        self._open.set()
        self._probe: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        return not self._open.is_set()

    async def wait(self) -> None:
        await self._open.wait()

    def full(self, shard: int) -> None:
        """The store refused an outcome or a ticket of `shard`: pause, and probe until it takes one."""
        if self._probe is None:
            log.error("store.full", shard=shard, effect="no attempt begins until there is room")
            FULL.add(1)
            self._open.clear()
            self._probe = asyncio.create_task(self._until_room(shard))

    async def _until_room(self, shard: int) -> None:
        nothing = codec.encode(SettleBatch(settlements=(), worker="probe"))
        while True:
            await asyncio.sleep(PROBE_EVERY)
            try:
                await self._store.publish(subjects.settle(shard), nothing)
            except FullError:
                continue
            except StoreError as error:
                log.debug("store.probe_failed", error=str(error))
                continue
            break
        self._probe = None
        self._open.set()
        log.info("store.has_room", shard=shard)
        self._resumed()

    async def close(self) -> None:
        if self._probe is not None:
            await end([self._probe])
