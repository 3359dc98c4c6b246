"""What all processes together granted of shared limits in the windows that are still open, for whoever starts.

Every instance listens, so that one that takes over knows; only the active one answers.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from waypost_queue import codec
from waypost_queue.errors import StoreError
from waypost_queue.model import Usage, UsageDelta
from waypost_queue.store import Store
from waypost_queue.usage import ASK, TOLD

log = structlog.get_logger(__name__)

MOST: Final = 50_000  # counters remembered; an answer of all is about 4 MB
LENGTH: Final = {"minute": 60, "day": 86_400}  # s of a window, by the kind that a key begins with


class UsageMemory:
    """From `start` to `close`; `active` says whether this instance answers."""

    def __init__(self, store: Store, active: Callable[[], bool], clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._active = active
        self._clock = clock
        self._counts: dict[str, tuple[int, int]] = {}  # key -> (window, recipients)
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Raises UnavailableError."""
        self._subscriptions = [
            await self._store.subscribe(TOLD, self._told),
            await self._store.subscribe(ASK, self._asked),
        ]

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await self._store.unsubscribe(subscription)
        self._subscriptions.clear()

    async def _told(self, message: Msg) -> None:
        try:
            usage = codec.decode(message.data, Usage)
        except codec.UndecodableError as error:
            log.warning("usage.unreadable", reason=str(error))
            return
        for delta in usage.deltas:
            window, recipients = self._counts.pop(delta.key, (delta.window, 0))
            if delta.window > window:
                window, recipients = delta.window, 0
            if delta.window == window:
                recipients = max(0, recipients + delta.recipients)
            if len(self._counts) >= MOST:
                del self._counts[next(iter(self._counts))]
            self._counts[delta.key] = (window, recipients)  # the latest told of is last to be forgotten

    async def _asked(self, message: Msg) -> None:
        if not self._active():
            return
        now = self._clock()
        self._counts = {
            key: (window, recipients)
            for key, (window, recipients) in self._counts.items()
            if window >= int(now) // LENGTH.get(key.partition(":")[0], 1) - 1
        }
        deltas = tuple(UsageDelta(key=key, window=w, recipients=n) for key, (w, n) in self._counts.items())
        try:
            await self._store.send(message.reply, codec.encode(Usage(process="", deltas=deltas)))
        except StoreError as error:
            log.info("usage.not_answered", reason=str(error))
