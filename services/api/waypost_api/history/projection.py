"""EVENTS into the history, from where it stopped, for ever."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from opentelemetry import metrics
from sqlalchemy.exc import SQLAlchemyError

from waypost_queue import eventlog, subjects
from waypost_queue.errors import StoreError
from waypost_queue.events import Event
from waypost_queue.store import Store

from .database import Database
from .rows import rows_of

log = structlog.get_logger(__name__)

_meter = metrics.get_meter("waypost")
PROJECTED = _meter.create_counter(
    "waypost.history.events", unit="{event}", description="Events projected into the history"
)

_PRUNE_EVERY = 3600.0  # s
_RETRY = 0.5  # s
_BREATH = 0.1  # s between transactions: under load each takes in what came meanwhile


class Projection:
    """Follows EVENTS; `seq` is how far it has come."""

    def __init__(self, store: Store, database: Database, days: int) -> None:
        self._store = store
        self._database = database
        self._keep = days * 86_400.0
        self._task: asyncio.Task[None] | None = None
        self._problem = "the history is not open yet"
        self.seq = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="projection")

    def problem(self) -> str:
        """Why the history is not being written, or ""."""
        if self._task is not None and self._task.done():
            return "the history's writer ended; the log says why"
        return self._problem

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Opens and follows, again whenever the stream or the database fails: nothing is lost by coming late."""
        try:
            while True:
                try:
                    await self._open()
                    await self._follow()
                except* StoreError as errors:
                    self._waits(f"the history waits for {subjects.EVENTS_STREAM}: {errors.exceptions[0]}")
                except* SQLAlchemyError as errors:
                    self._waits(f"the history's database: {errors.exceptions[0]}")
                await asyncio.sleep(_RETRY)
        except Exception:
            log.exception("history.failed")
            raise

    def _waits(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("history.waits", problem=problem)
        self._problem = problem

    async def _open(self) -> None:
        """Opens the database against the stream that exists now. Raises StoreError while there is none."""
        info = await self._store.api(f"STREAM.INFO.{subjects.EVENTS_STREAM}")
        self.seq = await self._database.open(str(info["created"]))
        self._problem = ""

    async def _follow(self) -> None:
        """Until either fails."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(eventlog.read(self._store, self.seq + 1, self._apply))
            tasks.create_task(self._prune())

    async def _apply(self, seq: int, events: Sequence[Event]) -> None:
        await self._database.apply(rows_of(events), seq)
        self.seq = seq
        PROJECTED.add(len(events))
        await asyncio.sleep(_BREATH)

    async def _prune(self) -> None:
        while True:
            pruned = await self._database.prune(time.time() - self._keep)
            await asyncio.sleep(0.1 if pruned else _PRUNE_EVERY)
