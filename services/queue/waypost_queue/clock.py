"""The stream's clock: schedules are judged by the server's time, so what is written to them is computed from it.

Now = `ts` of a STREAM.INFO plus what the monotonic clock has gone since; read again every half minute.
"""

import asyncio
import time

import structlog

from . import subjects
from .errors import StoreError
from .store import Store, parse_time

log = structlog.get_logger(__name__)

REFRESH = 30.0  # s


class StreamClock:
    """The clock of one shard's streams; `now()` is this machine's until the first answer."""

    def __init__(self, store: Store, shard: int) -> None:
        self._store = store
        self._stream = subjects.queue_stream(shard)
        self._ahead = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix seconds on the stream's clock."""
        return time.monotonic() + self._ahead

    async def refresh(self) -> None:
        """Reads the server's time; half the round trip is taken as the way back. Raises StoreError."""
        before = time.monotonic()
        answer = await self._store.api("STREAM.INFO." + self._stream)
        after = time.monotonic()
        self._ahead = parse_time(answer["ts"]) - (before + after) / 2

    async def run(self) -> None:
        """Reads it again and again; a failure leaves the last reading, which the monotonic clock carries on."""
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await self.refresh()
            except StoreError as error:
                log.debug("clock.refresh_failed", stream=self._stream, error=str(error))
