"""What the active queue service does, from the moment that it has the lease until it has lost it.

First the streams, then the requests, then the rounds: marks each second, what the server forgot, statistics, and the
pass over all tickets that the other sweeps live on. A round that fails is logged and made again; none depends on
another.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from msgspec import Struct

from waypost_queue.clock import StreamClock
from waypost_queue.config import Snapshot
from waypost_queue.errors import StoreError
from waypost_queue.events import Event
from waypost_queue.listing import QueueStatistics
from waypost_queue.model import ControlMark
from waypost_queue.store import Store
from waypost_queue.streams import Layout

from . import admin, census, orphans, waiting
from .actions import Actions
from .control import Control
from .copies import Copies
from .forgotten import Forgotten
from .lanes import Lanes
from .marks import Marks
from .statistics import Statistics
from .suspensions import Suspensions

log = structlog.get_logger(__name__)

T = TypeVar("T")
RETRY = 1.0  # s between tries to make the streams


class Pace(Struct, frozen=True, kw_only=True):
    """Seconds between rounds, and the ages from which on something counts as stuck."""

    marks: float = 1.0
    forgotten: float = 10.0
    statistics: float = 5.0
    census: float = 30.0
    census_share: float = 0.05  # of the time at most: a pass over a million tickets takes 40 s
    overdue_after: float = waiting.OVERDUE_AFTER
    orphan_margin: float = orphans.MARGIN


class Shard:
    """One shard's hands."""

    def __init__(
        self,
        store: Store,
        shard: int,
        layout: Layout,
        marks: Marks,
        snapshot: Callable[[], Snapshot],
        emit: Callable[[Event], None],
    ) -> None:
        self.number = shard
        self.clock = StreamClock(store, shard)
        copies = Copies(store, shard)
        self.actions = Actions(store, shard, marks=marks, copies=copies, clock=self.clock, emit=emit)
        self.forgotten = Forgotten(store, shard, layout.timing, copies)
        self.lanes = Lanes(store, shard, layout)
        self.suspensions = Suspensions(store, shard, self.clock, snapshot)


class Leader:
    """One reign. `run()` lasts until it is cancelled; `ready` is set once requests are answered."""

    def __init__(
        self,
        store: Store,
        layout: Layout,
        *,
        snapshot: Callable[[], Snapshot],
        emit: Callable[[Event], None],
        by: str,
        pace: Pace | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        self._store = store
        self._layout = layout
        self._pace = pace or Pace()
        self._marks = Marks(store)
        self._shards = [Shard(store, s, layout, self._marks, snapshot, emit) for s in range(layout.shards)]
        self._statistics = Statistics(store, layout.shards, by)
        self._control = Control(store, {s.number: s.actions for s in self._shards}, self.statistics)
        self._resumed = asyncio.Event()

    def statistics(self) -> QueueStatistics:
        return self._statistics.document(self._shards[0].clock.now(), len(self._marks))

    def configuration_changed(self) -> None:
        """A suspension may have ended."""
        self._resumed.set()

    async def run(self) -> None:
        await self._prepare()
        pace = self._pace
        rounds = [
            asyncio.create_task(coroutine, name=f"round {number}")
            for number, coroutine in enumerate(
                [
                    _each(pace.marks, "marks", self._review),
                    _each(pace.statistics, "statistics", self._refresh),
                    self._releases(),
                    *(_each(pace.forgotten, "forgotten", shard.forgotten.sweep) for shard in self._shards),
                    *(self._passes(shard) for shard in self._shards),
                    *(shard.clock.run() for shard in self._shards),
                ]
            )
        ]
        try:
            await self._control.start()
            self.ready.set()
            await asyncio.gather(*rounds)
        finally:
            self.ready.clear()
            for task in rounds:
                task.cancel()
            await asyncio.gather(*rounds, return_exceptions=True)
            await self._control.close()

    async def _prepare(self) -> None:
        """Streams, clocks and marks; again and again, since after a restart the server takes a while to answer."""
        while True:
            try:
                await admin.apply(self._store, self._layout)
                for shard in self._shards:
                    await shard.clock.refresh()
                await self._marks.load()
            except (StoreError, admin.LayoutError) as error:
                log.warning("leader.not_prepared", error=str(error))
                await asyncio.sleep(RETRY)
            else:
                return

    # -- rounds

    async def _review(self) -> None:
        await self._marks.review(self._heed)

    async def _heed(self, mark: ControlMark, subject: str) -> bool:
        shard = int(subject.partition(".")[0][1:])
        return await self._shards[shard].actions.heed(mark, subject)

    async def _refresh(self) -> None:
        await self._statistics.refresh(self._shards[0].clock.now())

    async def _passes(self, shard: Shard) -> None:
        while True:
            started = time.monotonic()
            await _logged("census", lambda: self._pass(shard))
            spent = time.monotonic() - started
            await asyncio.sleep(max(self._pace.census, spent / self._pace.census_share))

    async def _pass(self, shard: Shard) -> None:
        now = shard.clock.now()
        suspects = await orphans.suspects(self._store, shard.number, now, self._pace.orphan_margin)
        counted = await census.take(
            self._store, shard.number, now=now, overdue_after=self._pace.overdue_after, unneeded=suspects.mails
        )
        self._statistics.counted(counted)
        if counted.scopes:
            self._resumed.set()
        await waiting.heal(self._store, counted, shard.clock.now())
        await shard.lanes.sweep(counted.ready_lanes)
        if not counted.held_bundles:
            await suspects.purge(self._store)

    async def _releases(self) -> None:
        """As long as something is released there may be more; then at the next change, or when a pass sees a hold."""
        while True:
            self._resumed.clear()
            released = await _logged("suspensions", self._release)
            if not released:
                await self._resumed.wait()

    async def _release(self) -> int:
        return sum([await shard.suspensions.release() for shard in self._shards])


async def _each(seconds: float, name: str, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        await _logged(name, step)
        await asyncio.sleep(seconds)


async def _logged(name: str, step: Callable[[], Awaitable[T]]) -> T | None:
    """One round; a failure ends the round, not the service."""
    try:
        return await step()
    except StoreError as error:
        log.warning("leader.round_failed", round=name, error=str(error))
    except Exception:
        log.exception("leader.round_failed", round=name)
    return None
