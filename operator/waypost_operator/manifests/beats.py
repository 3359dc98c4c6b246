"""What each process of the services runs, as its heartbeat says: `hb.<service>.<incarnation>`, every 3 s."""

import time
from typing import Final

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from waypost_queue import codec
from waypost_queue.heartbeat import Beat
from waypost_queue.store import Store

log = structlog.get_logger(__name__)

SUBJECT: Final = "hb.>"
SERVICES: Final = ("ingress", "delivery")  # those that mail passes: configuration must have reached them
ALIVE: Final = 10.0  # s after its last heartbeat a process is gone
_MOST: Final = 10_000  # processes remembered


class Beats:
    """The processes that are alive, and the generation of the configuration that each runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscription: Subscription | None = None
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # -> (monotonic time, generation)

    async def start(self) -> None:
        self._subscription = await self._store.subscribe(SUBJECT, self._beat)

    async def close(self) -> None:
        if self._subscription is not None:
            await self._store.unsubscribe(self._subscription)

    async def _beat(self, message: Msg) -> None:
        try:
            beat = codec.decode(message.data, Beat)
        except codec.UndecodableError as error:
            log.debug("manifests.beat_unreadable", subject=message.subject, error=str(error))
            return
        if beat.service in SERVICES and len(self._seen) < _MOST:
            self._seen[(beat.service, beat.incarnation)] = (time.monotonic(), beat.config_generation)

    def running(self) -> dict[str, list[int]]:
        """Service -> generation of each of its live processes; {} while nobody has been heard."""
        oldest = time.monotonic() - ALIVE
        self._seen = {key: value for key, value in self._seen.items() if value[0] >= oldest}
        if not self._seen:
            return {}
        out: dict[str, list[int]] = {service: [] for service in SERVICES}
        for (service, _), (_, generation) in self._seen.items():
            out[service].append(generation)
        return out
