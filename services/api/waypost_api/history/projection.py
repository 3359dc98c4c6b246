"""EVENTS into the history, from where it stopped, for ever."""

import asyncio
import time

import structlog
from opentelemetry import metrics

from waypost_queue import eventlog, subjects
from waypost_queue.errors import StoreError
from waypost_queue.events import EventBatch
from waypost_queue.store import Store

from .database import Database
from .rows import rows_of

log = structlog.get_logger(__name__)

_meter = metrics.get_meter("waypost")
PROJECTED = _meter.create_counter(
    "waypost.history.events", unit="{event}", description="Events projected into the history"
)

_PRUNE_EVERY = 3600.0  # s


class Projection:
    """Follows EVENTS; `lag()` says how far behind it is."""

    def __init__(self, store: Store, database: Database, days: int) -> None:
        self._store = store
        self._database = database
        self._keep = days * 86_400.0
        self._tasks: list[asyncio.Task[None]] = []
        self.seq = 0

    async def start(self) -> None:
        """Opens the database against the stream that exists now. Raises StoreError while there is none."""
        info = await self._store.api(f"STREAM.INFO.{subjects.EVENTS_STREAM}")
        self.seq = await self._database.open(str(info["created"]))
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._prune())]

    def problem(self) -> str:
        """Why the history is not being written, or ""."""
        for task in self._tasks:
            if task.done():
                return "the history's writer ended; the log says why"
        return "" if self._tasks else "the history is not open yet"

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await eventlog.read(self._store, self.seq + 1, self._apply)
            except StoreError as error:
                log.warning("history.waits", error=str(error))
                await asyncio.sleep(1)

    async def _apply(self, seq: int, batch: EventBatch) -> None:
        rows = rows_of(batch.events)
        await self._database.apply(rows, seq)
        self.seq = seq
        PROJECTED.add(len(batch.events))

    async def _prune(self) -> None:
        while True:
            pruned = await self._database.prune(time.time() - self._keep)
            await asyncio.sleep(0.1 if pruned else _PRUNE_EVERY)
