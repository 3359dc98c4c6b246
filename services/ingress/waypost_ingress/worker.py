"""One worker: connects the parts, takes mail until it is told to stop, and drains.

start     health first; the ports are bound; NATS, checks, streams, configuration; then the ports listen
stop      ports close; 421 at each session's next command; DATA in flight finished and acknowledged; then the rest
dies      when the connection to NATS is closed for good, or it is refused what it needs: it is started again
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final

import structlog

from waypost_policy.index import Ceilings, ConfigIndex
from waypost_policy.limits import FairShare, Limiter
from waypost_queue import subjects
from waypost_queue.config import Snapshot
from waypost_queue.configwatch import ConfigWatch
from waypost_queue.connect import UnfitError, layout_of, open_store
from waypost_queue.errors import StoreError, UnavailableError
from waypost_queue.eventlog import EventLog
from waypost_queue.heartbeat import Heartbeat
from waypost_queue.intake import Intake
from waypost_queue.spool import Spool
from waypost_queue.store import Store
from waypost_queue.usage import Gossip
from waypost_runtime import health, process

from .acceptance import Acceptor
from .auth import Authenticator
from .ingress import Ingress, Listener
from .listeners import open_all
from .settings import IngressSettings
from .tls import Certificates

log = structlog.get_logger(__name__)

SERVICE: Final = "ingress"
RETRY: Final = 0.5  # s between looks for what the queue service makes
EVENTS_DRAIN: Final = 1.5  # s for events that wait when the process ends
INTAKE_DRAIN: Final = 2.0  # s for commits that outlived their sessions


class Worker:
    """One process' parts, and what readiness says of them."""

    def __init__(
        self,
        settings: IngressSettings,
        wanted: tuple[Listener, ...],
        sockets: Mapping[str, socket.socket],
        certificates: Certificates | None,
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._sockets = sockets
        self._certificates = certificates
        self._waits_for = "NATS"
        self._store: Store | None = None
        self._intake: Intake | None = None
        self._index = ConfigIndex(Snapshot())
        self._limiter = Limiter()
        self._ceilings = Ceilings(
            message_size=settings.message_size,
            recipients_per_message=settings.recipients,
            recipients_per_minute=settings.recipients_per_minute,
            recipients_per_day=settings.recipients_per_day,
            address_recipients_per_minute=settings.address_recipients_per_minute,
        )

    def problem(self) -> str:
        """Why mail must not be sent here, or ""."""
        if self._waits_for:
            return f"waiting for {self._waits_for}"
        if self._store is not None and not self._store.connected:
            return "NATS is away"
        return self._intake.room() if self._intake is not None else ""

    async def run(self, stop: asyncio.Event) -> bool:
        """Takes mail until `stop`. False when it ended because NATS is lost for good, or was never fit."""
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(self._start(stack), name="ingress-start")
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    return True
                store = starting.result()
            except (UnavailableError, UnfitError) as error:
                log.error("ingress.not_started", reason=str(error))
                return False
            finally:
                for task in (starting, stopped):
                    task.cancel()
                await asyncio.gather(starting, stopped, return_exceptions=True)
            await process.first_of(stop, store.died)
            self._waits_for = "its end: it is draining"
            log.info("ingress.draining", seconds_at_most=self._settings.drain_timeout)
            return not store.fatal

    async def _start(self, stack: AsyncExitStack) -> Store:
        """Puts it all together, in the order in which it can be taken apart from behind."""
        settings = self._settings
        store = self._store = await open_store(settings, SERVICE)
        stack.push_async_callback(store.close)
        shard = max(settings.worker, 0) % settings.shards  # spread over several, its bundles would shrink
        for stream in (subjects.intake_stream(shard), subjects.spool_stream(shard)):
            self._waits_for = f"the stream {stream}, which the queue service makes"
            await _until_there(partial(store.api, f"STREAM.INFO.{stream}"))

        events = EventLog(store, SERVICE, settings.instance)
        await events.start()
        stack.push_async_callback(events.close)
        stack.push_async_callback(events.drain, EVENTS_DRAIN)

        self._waits_for = "the configuration"
        config = ConfigWatch(store)
        await _until_there(config.start)
        stack.push_async_callback(config.close)
        config.on_change(self._configure)
        self._configure(config.snapshot)
        heartbeat = Heartbeat(store, SERVICE, lambda: config.snapshot.meta.generation)
        config.on_change(lambda _snapshot: heartbeat.beat())
        heartbeat.start()
        stack.push_async_callback(heartbeat.close)

        limiter = self._limiter
        usage = Gossip(store, drain=limiter.drain, merge=limiter.merge, adopt=limiter.adopt)
        await usage.start()
        stack.push_async_callback(usage.close)

        intake = self._intake = Intake(store, shard, layout_of(settings))
        await intake.start()
        stack.push_async_callback(_within, INTAKE_DRAIN, intake.close)
        authenticator = Authenticator(lambda: self._index)
        stack.callback(authenticator.close)
        ingress = Ingress(
            settings,
            acceptor=Acceptor(
                intake=intake,
                spool=Spool(store),
                events=events,
                index=lambda: self._index,
                limiter=self._limiter,
                shares=FairShare(),
                hostname=settings.hostname,
                worker=settings.instance,
            ),
            index=lambda: self._index,
            authenticator=authenticator,
            certificates=self._certificates,
            not_ready=lambda: store.fatal,
        )
        ingress.start()
        stack.callback(ingress.close)
        stack.push_async_callback(ingress.drain, settings.drain_timeout)
        servers = await open_all(ingress, self._wanted, self._sockets)
        for server in servers:
            stack.callback(server.close)
        self._waits_for = ""
        addresses = {kind: "{}:{}".format(*sock.getsockname()[:2]) for kind, sock in self._sockets.items()}
        log.info("ingress.listening", shard=shard, **addresses)
        return store

    def _configure(self, snapshot: Snapshot) -> None:
        self._index = ConfigIndex(snapshot, self._ceilings)


async def _until_there(ask: Callable[[], Awaitable[object]]) -> None:
    """Asks again and again: at a first start the queue service makes the streams meanwhile."""
    while True:
        try:
            await ask()
            return
        except StoreError as error:
            log.info("ingress.waiting", reason=str(error))
        await asyncio.sleep(RETRY)


async def _within(seconds: float, end: Callable[[], Awaitable[None]]) -> None:
    """The end of a part, cut short: whoever still waits then has no 250, and what is stored is stored."""
    with suppress(TimeoutError):
        await asyncio.wait_for(end(), seconds)


async def serve(
    settings: IngressSettings,
    stop: asyncio.Event,
    wanted: tuple[Listener, ...],
    sockets: Mapping[str, socket.socket],
    certificates: Certificates | None,
) -> bool:
    """A worker and its health; see `Worker.run`."""
    worker = Worker(settings, wanted, sockets, certificates)
    checks = health.Health()
    checks.check("ingress", worker.problem)
    async with health.serve(checks, settings.http_host, settings.http_port) as port:
        log.info("ingress.started", worker=settings.worker, health_port=port)
        return await worker.run(stop)
