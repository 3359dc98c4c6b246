"""`waypost serve queue`: the queue service as a process.

Any number may run; one is active, by a lease, the others stand by. The active one makes streams and consumers, answers
`ctl.>`, sweeps, releases what suspensions held, and publishes statistics. Mail flows on while none is: nothing on a
mail's way waits for this service. Two that believe themselves active for a moment do no harm: each write is fenced by
the sequence that it replaces.
"""

import asyncio
import os

import structlog

from waypost_queue.config import Snapshot
from waypost_queue.configwatch import ConfigWatch
from waypost_queue.connect import UnfitError, layout_of, open_store
from waypost_queue.errors import StoreError
from waypost_queue.eventlog import EventLog
from waypost_queue.lease import Lease
from waypost_queue.store import Store
from waypost_queue.streams import Layout
from waypost_runtime import health, logs, metrics, process
from waypost_runtime.settings import ServiceSettings

from . import admin
from .leader import Leader
from .usage import UsageMemory

log = structlog.get_logger(__name__)

SERVICE = "queue"
LEASE = "queue-service"
DRAIN = 5.0  # s for events that wait when the process ends
RETRY = 1.0  # s


class Instance:
    """One process of the service: stands by, leads, stands by again."""

    def __init__(self, store: Store, layout: Layout, settings: ServiceSettings) -> None:
        self._store = store
        self._layout = layout
        # unique to the process: the lease is known again by it
        holder = f"{settings.instance}-{os.urandom(6).hex()}"
        self._by = settings.instance
        self._lease = Lease(store, LEASE, holder, prepare=lambda: admin.prepare_leases(store, layout))
        self._events = EventLog(store, SERVICE, settings.instance)
        self._config = ConfigWatch(store)
        self._config.on_change(self._changed)
        self._watching = False
        self._leader: Leader | None = None
        self._usage = UsageMemory(store, lambda: self._lease.held)

    @property
    def state(self) -> str:
        """standby | preparing | active."""
        if not self._lease.held or self._leader is None:
            return "standby"
        return "active" if self._leader.ready.is_set() else "preparing"

    def problem(self) -> str:
        """Why it could neither act nor stand by: what readiness says."""
        if not self._store.connected:
            return "NATS is away"
        return "the streams are not made yet; the log says why" if self.state == "preparing" else ""

    async def run(self) -> None:
        """Until it is cancelled. The lease is given up at the end, so that who stands by takes over at once."""
        await self._events.start()
        await self._usage.start()
        try:
            while True:
                await self._lease.acquire()
                await self._lead()
        finally:
            await self._lease.release()
            await self._usage.close()
            await self._events.drain(DRAIN)
            await self._events.close()
            await self._config.close()

    async def _lead(self) -> None:
        """One reign: ends when the lease is lost."""
        leader = Leader(
            self._store,
            self._layout,
            snapshot=lambda: self._config.snapshot,
            emit=self._events.emit,
            by=self._by,
        )
        self._leader = leader
        tasks = [asyncio.create_task(leader.run()), asyncio.create_task(self._watch(leader))]
        lost = asyncio.ensure_future(self._lease.lost.wait())
        log.info("queue.leading", revision=self._lease.revision)
        try:
            await asyncio.wait([*tasks, lost], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        except StoreError as error:
            log.warning("queue.reign_ended", error=str(error))
            await self._lease.release()
            await asyncio.sleep(RETRY)
        finally:
            self._leader = None
            lost.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, lost, return_exceptions=True)
            log.info("queue.standing_by")

    async def _watch(self, leader: Leader) -> None:
        """The configuration, once its bucket surely exists; it goes on over reigns and reconnects."""
        await leader.ready.wait()
        while not self._watching:
            try:
                await self._config.start()
                self._watching = True
            except StoreError as error:
                log.warning("queue.configuration_unread", error=str(error))
                await asyncio.sleep(RETRY)
        leader.configuration_changed()
        await asyncio.Event().wait()

    def _changed(self, _snapshot: Snapshot) -> None:
        if self._leader is not None:
            self._leader.configuration_changed()


async def serve(stop: asyncio.Event) -> int:
    """Runs until `stop` is set (0) or NATS is gone for good (1)."""
    settings = ServiceSettings()
    logs.configure(SERVICE, level=settings.log_level, fmt=settings.log_format, instance=settings.instance)
    metrics.setup(SERVICE, settings.instance)
    try:
        layout = layout_of(settings)
        store = await process.unless(stop, open_store(settings, SERVICE))
    except (StoreError, UnfitError) as error:
        log.error("queue.not_started", error=str(error))
        return 1
    instance = Instance(store, layout, settings)
    checks = health.Health()
    checks.live("nats", lambda: store.fatal)
    checks.check("queue", instance.problem)
    running = asyncio.create_task(instance.run())
    ended = asyncio.Event()
    running.add_done_callback(lambda _: ended.set())
    try:
        async with health.serve(checks, settings.http_host, settings.http_port) as port:
            log.info("queue.started", http_port=port, shards=layout.shards, pools=layout.pools)
            await process.first_of(stop, store.died, ended)
            if running.done():
                running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
    return 1 if store.fatal else 0


def main() -> int:
    return process.run(serve)
