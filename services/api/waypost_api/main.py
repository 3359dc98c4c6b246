"""`waypost serve api`."""

import asyncio
import os

import structlog
import uvicorn
from pydantic import ValidationError

from waypost_queue.connect import UnfitError, open_store
from waypost_queue.errors import UnavailableError
from waypost_runtime import health, logs, metrics, process
from waypost_runtime.health import Health

from .app import create
from .history.database import Database
from .history.projection import Projection
from .settings import ApiSettings

log = structlog.get_logger(__name__)


async def run(settings: ApiSettings, stop: asyncio.Event) -> int:
    """Serves until `stop`; returns the exit status."""
    os.nice(5)  # the history may lag, mail may not
    try:
        store = await process.unless(stop, open_store(settings, "api"))
    except (UnavailableError, UnfitError) as error:
        log.error("api.not_started", reason=str(error))
        return 1
    checks = Health()
    checks.live("nats", lambda: store.fatal)
    checks.check("nats", lambda: "" if store.connected else "disconnected from NATS")
    try:
        listener = health.bind(settings.http_host, settings.http_port)
    except OSError as error:
        log.error("api.not_started", reason=str(error))
        await store.close()
        return 1
    database = Database(settings.history_url)
    projection = Projection(store, database, settings.history_days)
    projection.start()
    checks.check("history", projection.problem)
    server = health.SignalFreeServer(
        uvicorn.Config(
            create(settings, store, database, checks),
            lifespan="off",
            access_log=False,
            log_config=None,
            limit_concurrency=256,
            timeout_keep_alive=15,
            h11_max_incomplete_event_size=64 * 1024,
            server_header=False,
            ws="none",
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log.info("api.listening", address=f"{settings.http_host}:{listener.getsockname()[1]}")
    try:
        await process.first_of(stop, store.died)
    finally:
        server.should_exit = True
        await serving
        listener.close()
        await projection.close()
        await database.close()
        await store.close()
    return 1 if store.fatal else 0


def main() -> int:
    """Entry point of the service."""
    try:
        settings = ApiSettings()
    except ValidationError as error:
        logs.configure("api")
        for item in error.errors():
            log.error("settings.invalid", field=".".join(map(str, item["loc"])), problem=item["msg"])
        return 2
    logs.configure("api", level=settings.log_level, fmt=settings.log_format, worker=settings.instance)
    metrics.setup("api", settings.instance)
    return process.run(lambda stop: run(settings, stop))
