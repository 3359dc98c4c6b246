"""A service's connection to NATS: waits for it, and is handed out only once mail is safe there.

The checks of `checks` come first and again after each reconnect, since it may lead to another server: one that does
not fit then ends the process, which is the surest way to answer no 250.
"""

import asyncio
import time
from typing import Final

import structlog

from waypost_runtime.settings import ServiceSettings

from . import checks, natsconf
from .errors import StoreError, UnavailableError
from .permissions import inbox_prefix
from .store import Store, StoreOptions
from .streams import Layout

log = structlog.get_logger(__name__)

WAIT: Final = 60.0  # s for NATS to come up, then the process ends and its supervisor starts it again
_RETRY: Final = 0.25  # s, doubled up to
_RETRY_LAST: Final = 2.0
_CONNECT: Final = 5.0  # s, one attempt
_SAY_EVERY: Final = 5.0  # s


class UnfitError(Exception):
    """NATS is there, but mail would not be safe or could not be handled; says what would be right."""


def layout_of(settings: ServiceSettings) -> Layout:
    """What the streams look like under these settings."""
    return Layout(
        shards=settings.shards, pools=settings.pools, replicas=settings.replicas, store_bytes=settings.store_bytes
    )


def options_of(settings: ServiceSettings, service: str) -> StoreOptions:
    """How `service` reaches NATS. With a user of its own it has an inbox of its own."""
    own = bool(settings.nats_user or settings.nats_credentials)
    password = settings.nats_password
    return StoreOptions(
        servers=settings.nats_servers,
        name=f"waypost-{service}-{settings.instance}",
        user=settings.nats_user or None,
        password=password.get_secret_value() if password is not None else None,
        credentials_file=str(settings.nats_credentials) if settings.nats_credentials else None,
        inbox_prefix=settings.nats_inbox_prefix or (inbox_prefix(service) if own else "_INBOX"),
    )


async def open_store(settings: ServiceSettings, service: str, wait: float = WAIT) -> Store:
    """A connected store that passed the checks.

    Waits at most `wait` seconds for NATS and says so in the log. Raises UnavailableError after that, UnfitError when
    NATS answers what can't be worked with.
    """
    store = Store(options_of(settings, service))
    deadline = time.monotonic() + wait
    delay, said = _RETRY, 0.0
    while True:
        try:
            if not store.connected:
                await store.connect(min(_CONNECT, max(0.1, deadline - time.monotonic())))
            problem = await _problem(store, settings, service)
            break
        except StoreError as error:
            now = time.monotonic()
            if now + delay > deadline:
                await store.close()
                raise UnavailableError(f"NATS was not there for {wait:g} s: {error}") from error
            if now - said >= _SAY_EVERY:
                log.warning("nats.waiting", servers=settings.nats_servers, reason=str(error))
                said = now
        await asyncio.sleep(delay)
        delay = min(delay * 2, _RETRY_LAST)
    if problem:
        await store.close()
        raise UnfitError(problem)
    store.checked = True
    store.on_reconnect(_Recheck(store, settings, service).start)
    log.info("nats.connected", servers=settings.nats_servers, service=service)
    return store


async def _problem(store: Store, settings: ServiceSettings, service: str) -> str:
    """Why this NATS won't do, or ""."""
    if store.nc.max_payload < natsconf.MAX_PAYLOAD:
        return (
            f"nats-server takes messages of at most {store.nc.max_payload} octets, and bundles may be larger: set "
            "`max_payload: 8MB`"
        )
    return await checks.permissions(store, service, settings.shards) or await _durability(settings)


async def _durability(settings: ServiceSettings) -> str:
    if not settings.nats_system_user:
        if settings.allow_weak_durability:
            log.warning("nats.durability_unknown", risk="a power cut may lose mail that got its 250")
            return ""
        return (
            "whether NATS syncs to disk before it acknowledges can only be read by a user of its system account: set "
            "WAYPOST_NATS_SYSTEM_USER and _PASSWORD, or accept that a power cut may lose mail "
            "(WAYPOST_ALLOW_WEAK_DURABILITY=true)"
        )
    password = settings.nats_system_password
    weak = await checks.durability(
        StoreOptions(
            servers=settings.nats_servers,
            name=f"waypost-check-{settings.instance}",
            user=settings.nats_system_user,
            password=password.get_secret_value() if password is not None else None,
        )
    )
    if weak and settings.allow_weak_durability:
        log.warning("nats.durability_weak", reason=weak)
        return ""
    return weak


class _Recheck:
    """Runs the checks again after a reconnect, beside whatever else a reconnect sets off."""

    def __init__(self, store: Store, settings: ServiceSettings, service: str) -> None:
        self._store = store
        self._settings = settings
        self._service = service
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="nats-recheck")

    async def _run(self) -> None:
        delay = _RETRY
        while not self._store.died.is_set() and not self._store.nc.is_closed:
            epoch = self._store.epoch
            try:
                problem = await _problem(self._store, self._settings, self._service)
            except StoreError as error:
                log.debug("nats.recheck", reason=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_LAST)
                continue
            if problem:
                self._store.die(problem)
                return
            if epoch == self._store.epoch:
                self._store.fit = True
                return
