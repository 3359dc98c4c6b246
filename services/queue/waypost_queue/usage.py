"""Usage: what each process granted of the limits that all share, told to the others on core NATS.

A limit holds over all processes with a lag of one round. Nothing is stored: whoever starts, or was cut off, asks the
queue service, which remembers the windows that are still open. While nobody answers each process goes by what it knows.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from . import codec
from .background import end
from .errors import StoreError
from .model import Usage, UsageDelta
from .store import Store

log = structlog.get_logger(__name__)

TOLD: Final = "usage.told"
ASK: Final = "usage.ask"
EVERY: Final = 0.5  # s a round
MAX_DELTAS: Final = 5000  # a message
MAX_UNTOLD: Final = 100_000  # kept while NATS is away
ASK_TIMEOUT: Final = 1.0  # s


class Gossip:
    """Between one process' counters and those of all others.

    `drain` gives what was granted here since it was last called; `merge` gets what was granted elsewhere meanwhile,
    `adopt` what all granted together, as far as the queue service knows.
    """

    def __init__(
        self,
        store: Store,
        *,
        drain: Callable[[], list[UsageDelta]],
        merge: Callable[[list[UsageDelta]], None],
        adopt: Callable[[list[UsageDelta]], None],
    ) -> None:
        self._store = store
        self._process = os.urandom(8).hex()
        self._drain, self._merge, self._adopt = drain, merge, adopt
        self._untold: list[UsageDelta] = []
        self._subscription: Subscription | None = None
        self._forget: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens, learns what was granted before, and begins to tell. Raises UnavailableError."""
        self._subscription = await self._store.subscribe(TOLD, self._told)
        self._forget = self._store.on_reconnect(self._ask)
        await self._ask()
        self._task = asyncio.create_task(self._run(), name="usage")

    async def close(self) -> None:
        """Tells what is left."""
        if self._task is not None:
            await end([self._task])
        await self.tell()
        if self._forget is not None:
            self._forget()
        if self._subscription is not None:
            await self._store.unsubscribe(self._subscription)

    async def tell(self) -> None:
        """One round; what can't be told now is told in the next."""
        untold = (self._untold + self._drain())[-MAX_UNTOLD:]
        while untold:
            payload = codec.encode(Usage(process=self._process, deltas=tuple(untold[:MAX_DELTAS])))
            try:
                await self._store.send(TOLD, payload)
            except StoreError as error:
                log.debug("usage.untold", deltas=len(untold), reason=str(error))
                break
            del untold[:MAX_DELTAS]
        self._untold = untold

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            await self.tell()

    async def _told(self, message: Msg) -> None:
        try:
            usage = codec.decode(message.data, Usage)
        except codec.UndecodableError as error:
            log.warning("usage.unreadable", reason=str(error))
            return
        if usage.process != self._process:
            self._merge(list(usage.deltas))

    async def _ask(self) -> None:
        try:
            answer = await self._store.request(ASK, timeout=ASK_TIMEOUT)
            self._adopt(list(codec.decode(answer.data, Usage).deltas))
        except (StoreError, codec.UndecodableError) as error:
            log.info("usage.unknown", reason=str(error), effect="limits begin from what this process knows")
