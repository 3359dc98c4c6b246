"""A message in hand, and until when it is ours.

A worker owns a message until two thirds of `ack_wait` after it *sent* the pull request, or the last confirmed
`in_progress`; once over, never again, and never over a lost connection (the server may have forgotten the delivery).
The server confirms `in_progress` to anyone, so the keep-alive looks before it sends.
"""

import asyncio
import time
from collections.abc import Callable

import structlog
from nats.aio.msg import Msg

from .errors import OwnershipLostError, StoreError
from .store import Store
from .streams import Timing

log = structlog.get_logger(__name__)

ACK_TIMEOUT = 5.0  # s
OWNED_SHARE = 2 / 3  # of ack_wait


class Held:
    """One delivered message. `sent` is the monotonic time at which its pull request left."""

    __slots__ = (
        "_limit",
        "_store",
        "consumer_seq",
        "data",
        "deliveries",
        "done",
        "earlier",
        "epoch",
        "last",
        "lost",
        "received",
        "renewing",
        "reply",
        "seq",
        "slow",
        "subject",
        "time",
    )

    def __init__(self, store: Store, timing: Timing, message: Msg, sent: float) -> None:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>, or with domain and
        # account after the first two tokens (ADR-15)
        parts = message.reply.split(".")
        if len(parts) >= 11:
            parts = parts[:2] + parts[4:]
        self._store = store
        self._limit = timing.ack_wait * OWNED_SHARE
        self.subject = message.subject
        self.data = message.data
        self.reply = message.reply
        self.deliveries = int(parts[4])
        self.seq = int(parts[5])
        self.consumer_seq = int(parts[6])
        self.time = int(parts[7]) / 1e9
        self.epoch = store.epoch
        self.last = sent
        self.received = time.monotonic()
        self.lost = False
        self.done = False
        self.renewing = False
        self.slow = False
        self.earlier: asyncio.Task[None] | None = None  # this process' job with an earlier delivery of it

    def owned(self) -> bool:
        """True while it is surely ours. Look with nothing awaited before what must not happen twice."""
        if self.lost:
            return False
        if self.epoch != self._store.epoch or not self._store.connected or time.monotonic() - self.last > self._limit:
            self.lost = True
            return False
        return True

    def need(self) -> None:
        """Raises OwnershipLostError unless it is surely ours."""
        if not self.owned():
            raise OwnershipLostError(f"{self.subject} ({self.seq}) is no longer ours")

    async def renew(self, timeout: float) -> None:
        """One `in_progress`, confirmed; the time counts from before it was sent. Silence changes nothing."""
        if self.renewing or not self.owned():
            return
        self.renewing = True
        sent = time.monotonic()
        try:
            await self._store.request(self.reply, b"+WPI", timeout=timeout)
            self.last = max(self.last, sent)
        except StoreError as error:
            log.debug("held.renew_failed", seq=self.seq, error=str(error))
        finally:
            self.renewing = False

    async def ack(self) -> None:
        """Acks and waits for the confirmation. Raises OwnershipLostError or StoreError: it may come back."""
        self.need()
        await self._store.request(self.reply, b"+ACK", timeout=ACK_TIMEOUT)
        self.done = True


class KeepAlive:
    """Keeps every message in hand: one loop for all, so that a message that is done in milliseconds costs nothing."""

    def __init__(self, timing: Timing) -> None:
        self._every = timing.keep_alive
        self._timeout = timing.ack_wait / 3.3
        self._tick = min(0.25, timing.keep_alive / 8)
        self._held: set[Held] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, held: Held) -> None:
        self._held.add(held)

    def remove(self, held: Held) -> None:
        self._held.discard(held)

    @property
    def timeout(self) -> float:
        return self._timeout

    async def run(self, tick: Callable[[float], None]) -> None:
        """Renews what is due, and calls `tick` with the monotonic time a few times a second."""
        try:
            while True:
                await asyncio.sleep(self._tick)
                now = time.monotonic()
                tick(now)
                for held in self._held:
                    if now - held.last >= self._every and not held.renewing and held.owned():
                        task = asyncio.create_task(held.renew(self._timeout))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
        finally:
            for task in self._tasks:
                task.cancel()
