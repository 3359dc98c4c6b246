"""SETTLE: outcomes on disk, many in one message.

Flushed 10 ms after the first or at 100 outcomes; while one write is under way the next ones gather. An outcome is
written again until it is acknowledged, even once its message is no longer owned or the server was away: it is true,
and whoever has the message now must learn of it. A deferral is never written (recovery would skip the recipient).
"""

import asyncio

import opentelemetry.metrics
import structlog

from . import codec, subjects
from .background import end
from .errors import ApiError, FullError, StoreError
from .model import SettleBatch, Settlement
from .room import Room
from .store import Store

log = structlog.get_logger(__name__)

_meter = opentelemetry.metrics.get_meter("waypost")
SETTLED = _meter.create_counter(
    "waypost.queue.settled", unit="{recipient}", description="Final outcomes of recipients that are on disk."
)
FLUSHES = _meter.create_counter(
    "waypost.queue.settle_flushes", unit="{message}", description="Messages written to SETTLE."
)

LINGER = 0.010  # s
FLUSH_AT = 100  # outcomes
MAX_OUTCOMES = 1000  # a message


class Settler:
    """Writes the outcomes of one shard."""

    def __init__(self, store: Store, shard: int, worker: str, room: Room) -> None:
        self._store = store
        self._shard = shard
        self._subject = subjects.settle(shard)
        self._worker = worker
        self._room = room
        self._waiting: list[tuple[Settlement, asyncio.Future[None]]] = []
        self._outcomes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None

    def put(self, settlement: Settlement) -> asyncio.Future[None]:
        """Resolves once the settlement is on disk; never fails."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((settlement, future))
        self._outcomes += len(settlement.outcomes)
        if self._writer is None:
            if self._outcomes >= FLUSH_AT:
                self._flush()
            elif self._timer is None:
                self._timer = loop.call_later(LINGER, self._flush)
        return future

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is None and self._waiting:
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch: list[tuple[Settlement, asyncio.Future[None]]] = []
                outcomes = 0
                for item in self._waiting:
                    if batch and outcomes + len(item[0].outcomes) > MAX_OUTCOMES:
                        break
                    batch.append(item)
                    outcomes += len(item[0].outcomes)
                del self._waiting[: len(batch)]
                self._outcomes -= outcomes
                payload = codec.encode(SettleBatch(settlements=tuple(s for s, _ in batch), worker=self._worker))
                await self._until_stored(payload)
                SETTLED.add(outcomes)
                FLUSHES.add(1)
                for _, future in batch:
                    if not future.done():
                        future.set_result(None)
        finally:
            self._writer = None

    async def _until_stored(self, payload: bytes) -> None:
        pause = 0.05
        while True:
            try:
                await self._store.publish(self._subject, payload)
            except FullError:
                self._room.full(self._shard)
            except ApiError as error:
                log.error("settle.refused", shard=self._shard, error=str(error))
            except StoreError as error:
                log.debug("settle.again", shard=self._shard, error=str(error))
            else:
                return
            await asyncio.sleep(pause)
            pause = min(1.0, pause * 1.5)

    async def close(self, timeout: float) -> None:
        """Writes what is left, for at most `timeout` seconds."""
        self._flush()
        writer = self._writer
        if writer is not None:
            _, late = await asyncio.wait([writer], timeout=timeout)
            for task in late:
                log.error("settle.unwritten", shard=self._shard, outcomes=self._outcomes, effect="may be sent again")
                await end([task])
