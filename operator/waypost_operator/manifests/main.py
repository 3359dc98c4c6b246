"""`waypost serve manifests`: watches a folder and keeps its resources in force."""

import asyncio

import structlog
from pydantic import ValidationError

from waypost_config import devtoken
from waypost_config.compiler import Settings
from waypost_config.credentials import Server
from waypost_queue.configwatch import ConfigWatch
from waypost_queue.connect import UnfitError, open_store
from waypost_queue.errors import StoreError
from waypost_queue.seal import Sealer, SealError, load_key
from waypost_queue.store import Store
from waypost_runtime import health, logs, metrics, process
from waypost_runtime.health import Health

from .beats import Beats
from .reading import Reading
from .reconciler import Reconciler
from .settings import ManifestsSettings
from .shell import Shell

log = structlog.get_logger(__name__)


async def run(settings: ManifestsSettings, stop: asyncio.Event) -> int:
    """Serves until `stop`; returns the exit status."""
    try:
        sealer = Sealer(load_key(settings.seal_key, create=True))
        jwks = devtoken.jwks(devtoken.load_or_create(devtoken.key_path(settings.data_dir)))
        ca = settings.ca_file.read_text(encoding="ascii") if settings.ca_file is not None else ""
        settings.secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        reading = Reading(settings)
        store = await process.unless(stop, open_store(settings, "manifests"))
    except (OSError, SealError, devtoken.DevTokenError, StoreError, UnfitError) as error:
        log.error("manifests.start_failed", error=str(error))
        return 1
    compiling = Settings(
        pools=settings.pools,
        tenancy=settings.tenancy,
        release_namespace=settings.release_namespace,
        jwks=jwks,
        issuer=devtoken.ISSUER,
    )
    server = Server(settings.submission_host, settings.submission_port, ca)
    watch, beats = ConfigWatch(store), Beats(store)
    shell = Shell(
        Reconciler(store, watch, reading, sealer, compiling, secrets_dir=settings.secrets_dir, server=server),
        reading.watched,
        beats.running,
    )
    try:
        async with health.serve(_health(store, shell), settings.http_host, settings.http_port):
            await watch.start()
            await beats.start()
            log.info("manifests.watching", folders=[str(folder) for folder in reading.watched])
            await shell.run(stop, store.died)
    except (OSError, StoreError) as error:
        log.error("manifests.start_failed", error=str(error))
        return 1
    finally:
        await beats.close()
        await watch.close()
        await store.close()
    return 1 if store.fatal else 0


def _health(store: Store, shell: Shell) -> Health:
    checks = Health()
    checks.live("nats", lambda: store.fatal)
    checks.check("nats", lambda: "" if store.connected else "disconnected from NATS")
    checks.check("manifests", lambda: shell.problem)
    return checks


def main() -> int:
    """Entry point of the service."""
    try:
        settings = ManifestsSettings()
    except ValidationError as error:
        logs.configure("manifests")
        for item in error.errors():
            log.error("settings.invalid", field=".".join(map(str, item["loc"])), problem=item["msg"])
        return 2
    logs.configure("manifests", level=settings.log_level, fmt=settings.log_format, worker=settings.instance)
    metrics.setup("manifests", settings.instance)
    return process.run(lambda stop: run(settings, stop))
