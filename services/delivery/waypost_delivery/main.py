"""`waypost serve delivery`: one pool a process."""

import asyncio

import structlog
from pydantic import ValidationError

from waypost_queue.connect import UnfitError, layout_of, open_store
from waypost_queue.errors import UnavailableError
from waypost_runtime import health, logs, metrics, process

from .service import Service
from .settings import DeliverySettings

log = structlog.get_logger(__name__)

EXIT_UNFIT = 1
EXIT_SETTINGS = 2


async def run(settings: DeliverySettings, stop: asyncio.Event) -> int:
    """Delivers until `stop`; returns the exit status."""
    try:
        store = await process.unless(stop, open_store(settings, "delivery"))
    except (UnavailableError, UnfitError) as error:
        log.error("delivery.not_started", reason=str(error))
        return EXIT_UNFIT
    checks = health.Health()
    service = Service(settings, store, layout_of(settings))
    service.watch(checks)
    try:
        async with health.serve(checks, settings.http_host, settings.http_port) as port:
            log.info("delivery.started", pool=settings.pool, shards=settings.shards, health_port=port)
            await _until_ended(service, asyncio.create_task(process.first_of(stop, store.died)))
    finally:
        log.info("delivery.stopping", seconds_at_most=settings.drain_timeout)
        await service.close()
        await store.close()
    return EXIT_UNFIT if store.fatal else 0


async def _until_ended(service: Service, ended: asyncio.Task[None]) -> None:
    """Starts the service and waits for the end, which may come while it still waits for its streams."""
    starting = asyncio.create_task(service.start())
    try:
        await asyncio.wait((starting, ended), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await ended
    finally:
        for task in (starting, ended):
            task.cancel()
        await asyncio.gather(starting, ended, return_exceptions=True)


def main() -> int:
    """Entry point of the service; returns the exit status."""
    try:
        settings = DeliverySettings()
    except ValidationError as error:
        logs.configure("delivery")
        for item in error.errors():
            log.error("settings.invalid", field=".".join(map(str, item["loc"])), problem=item["msg"])
        return EXIT_SETTINGS
    logs.configure("delivery", level=settings.log_level, fmt=settings.log_format, worker=settings.instance)
    metrics.setup("delivery", settings.instance)
    return process.run(lambda stop: run(settings, stop))
