"""A delivery process put together: what it watches, its transports, its handler, and the engine that drives them."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from waypost_queue.configwatch import ConfigWatch
from waypost_queue.engine import Engine, Slots
from waypost_queue.errors import StoreError
from waypost_queue.eventlog import EventLog
from waypost_queue.heartbeat import Heartbeat
from waypost_queue.inbox import Inbox
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.streams import Layout
from waypost_runtime.health import Health

from .handler import Delivery, Options
from .inbox import InboxTransport
from .marks import Marks
from .passwords import Passwords
from .settings import DeliverySettings
from .smtp import SmtpTransport

log = structlog.get_logger(__name__)

_RETRY = 0.25  # s, doubled up to
_RETRY_LAST = 2.0
_EVENTS_DRAIN = 5.0  # s


class Service:
    """Made inside a running event loop. `start`, then `close`, once each."""

    def __init__(self, settings: DeliverySettings, store: Store, layout: Layout) -> None:
        self._settings = settings
        self._store = store
        self._started = False
        self.config = ConfigWatch(store)
        self._passwords = Passwords(store, settings.seal_key)
        self._marks = Marks(store)
        self._events = EventLog(store, "delivery", settings.instance)
        self._smtp = SmtpTransport(settings.transport)
        self._inbox = InboxTransport(Inbox(store))
        self.handler = Delivery(
            Options(
                hostname=settings.hostname,
                pools=frozenset(settings.pools),
                inbox_catch_all=settings.inbox_catch_all,
                inbox_reserved_names=settings.inbox_reserved_names,
            ),
            smtp=self._smtp,
            sites=self._smtp,
            inbox=self._inbox,
            snapshot=self.config.snapshot,
            password=self._passwords.get,
            emit=self._events.emit,
        )
        self.config.on_change(self.handler.configure)
        self._heartbeat = Heartbeat(store, "delivery", lambda: self.config.snapshot.meta.generation)
        self.config.on_change(lambda _snapshot: self._heartbeat.beat())
        self._engine = Engine(
            store,
            layout,
            self.handler,
            pool=settings.pool,
            spool=Spool(store),
            marks=self._marks.get,
            worker=settings.instance,
            slots=Slots(bundles=settings.bundles, tickets=settings.tickets),
        )

    def problem(self) -> str:
        """Why mail does not flow here, or ""."""
        if not self._store.connected:
            return "disconnected from NATS"
        if not self._started:
            return "waiting for the streams, which the queue service makes"
        stats = self._engine.stats()
        if stats.lanes_ready < stats.lanes:
            return f"{stats.lanes_ready} of {stats.lanes} lanes are pulled"
        return ""

    def watch(self, health: Health) -> None:
        """Adds what /livez and /readyz ask."""
        health.live("nats", lambda: self._store.fatal)
        health.check("delivery", self.problem)

    async def start(self) -> None:
        """Loads what it watches, then begins to pull. Waits for streams and buckets until they are there."""
        await self._events.start()
        await _until_there("config", self.config.start)
        await _until_there("keys", self._passwords.start)
        await _until_there("marks", self._marks.start)
        await _until_there("engine", self._engine.start)
        self._heartbeat.start()
        self._started = True

    async def close(self) -> None:
        """Pulls no more, lets attempts under way finish, settles them, and ends every connection."""
        if self._started:
            await self._engine.drain(self._settings.drain_timeout)
        await self._heartbeat.close()
        await self._smtp.close()
        await self._events.drain(_EVENTS_DRAIN)
        await self._events.close()
        await self._marks.close()
        await self._passwords.close()
        await self.config.close()


async def _until_there(what: str, start: Callable[[], Awaitable[None]]) -> None:
    """Starts a part, again and again while the store does not have what it needs: a first start makes it meanwhile."""
    delay = _RETRY
    while True:
        try:
            await start()
            return
        except StoreError as error:
            log.info("delivery.waiting", part=what, reason=str(error))
        await asyncio.sleep(delay)
        delay = min(delay * 2, _RETRY_LAST)
