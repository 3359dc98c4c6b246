"""One active instance of a service: a lease in the KV bucket `leases`, whose keys live 10 s.

The holder writes it again each 3 s, fenced by its own revision, and counts its time by its own monotonic clock from
before the last write that succeeded: after 7 s without one it is no longer the holder, 3 s before the server lets the
key go. A disconnect ends it at once: the bucket lies in memory, so after a restart of the server someone else may have
it. The revision says which holder wrote something.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from .errors import FencedError, StoreError, UnavailableError
from .kv import Bucket
from .store import Store

log = structlog.get_logger(__name__)

RENEW: Final = 3.0  # s between writes
STEP_DOWN: Final = 7.0  # s after the last good write was sent; the bucket's age limit is 10 s
WRITE: Final = 2.0  # s for one write; RENEW and two of these fit into STEP_DOWN
RETRY: Final = 1.0  # s between tries of who stands by


class Lease:
    """A named lease: `await acquire()`; look at `held` before what only its holder may do; wait on `lost`; `release()`.

    `holder` must be unique to this process: by it the lease is known again after an answer that was lost. `prepare` is
    awaited when the bucket does not answer: it lies in memory, so a single server that restarts has lost it whole.
    """

    def __init__(
        self, store: Store, name: str, holder: str, prepare: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.name = name
        self.revision = 0
        self.lost = asyncio.Event()
        self._store = store
        self._bucket = Bucket(store, "leases")
        self._holder = holder.encode()
        self._prepare = prepare
        self._sent = float("-inf")  # monotonic, before the last write that succeeded
        self._epoch = -1
        self._renewing: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether nobody else can have it now."""
        return time.monotonic() - self._sent < STEP_DOWN and self._epoch == self._store.epoch

    async def acquire(self) -> None:
        """Stands by until the lease is ours, then keeps it up until `release` or until `lost` is set."""
        while True:
            if await self._write(self._take):
                break
            await asyncio.sleep(RETRY)
        self.lost.clear()
        log.info("lease.acquired", lease=self.name, revision=self.revision)
        self._renewing = asyncio.create_task(self._keep(), name=f"lease {self.name}")

    async def release(self) -> None:
        """Gives it up at once, so that who stands by need not wait for its end."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
            self._renewing = None
        if self.held:
            try:
                await self._bucket.delete(self.name)
            except StoreError as error:
                log.warning("lease.release_failed", lease=self.name, error=str(error))
        self._end()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW)
            if not await self._write(self._renew):
                break
        log.warning("lease.lost", lease=self.name, revision=self.revision)
        self._end()

    def _end(self) -> None:
        self._sent = float("-inf")
        self.lost.set()

    async def _write(self, how: Callable[[], Awaitable[int]]) -> bool:
        """One write; whether the lease is held after it. One that fails leaves it held until its time is over."""
        sent, epoch = time.monotonic(), self._store.epoch
        try:
            async with asyncio.timeout(WRITE):
                self.revision = await how()
        except FencedError:
            return False
        except (StoreError, TimeoutError) as error:
            log.info("lease.write_failed", lease=self.name, error=str(error) or "no answer")
            return self.held
        self._sent, self._epoch = sent, epoch
        return self.held

    async def _take(self) -> int:
        try:
            return await self._bucket.create(self.name, self._holder)
        except FencedError:
            return await self._renew_ours()
        except UnavailableError:
            if self._prepare is not None and self._store.connected:
                await self._prepare()
            raise

    async def _renew(self) -> int:
        try:
            return await self._bucket.update(self.name, self._holder, self.revision)
        except FencedError:
            return await self._renew_ours()

    async def _renew_ours(self) -> int:
        """The key is ours after all when an earlier write of ours was stored and its answer lost."""
        entry = await self._bucket.get(self.name)
        if entry is None or entry.value != self._holder:
            raise FencedError(self.name, 400, 10071, "the lease is another's")
        return await self._bucket.update(self.name, self._holder, entry.revision)
