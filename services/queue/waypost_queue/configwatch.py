"""Configuration as it lies in the KV bucket `config`: watched by every service, written by whoever compiles it.

`meta` is written last, so a reader takes changes over when `meta` comes (or a moment after the last one, should the
writer have died in between): a change that spans several keys is seen whole. What can't be decoded, or is of a newer
version, leaves the last good value in force.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec
import opentelemetry.metrics
import structlog

from . import codec
from .config import CredentialConfig, DestinationConfig, DomainConfig, Meta, Snapshot
from .kv import Bucket, Changes, Entry, Watch
from .store import Store
from .subjects import token

log = structlog.get_logger(__name__)

BUCKET: Final = "config"
META: Final = "meta"
SETTLE_TIME: Final = 0.25  # s that changes without a `meta` behind them wait for it
DELETED_KEPT: Final = 30 * 86_400.0  # s that a deleted domain's settings stay: longer than any mail of it is retried

_meter = opentelemetry.metrics.get_meter("waypost")
UNREADABLE = _meter.create_counter(
    "waypost.config.unreadable",
    unit="{value}",
    description="Configuration values that could not be decoded; the last good ones stay in force.",
)

_Value = DomainConfig | CredentialConfig | DestinationConfig | Meta
_READERS: Final[dict[str, Callable[[bytes], _Value]]] = {
    "domain": lambda data: codec.decode(data, DomainConfig),
    "credential": lambda data: codec.decode(data, CredentialConfig),
    "policy": lambda data: codec.decode(data, DestinationConfig),
    META: lambda data: codec.decode(data, Meta),
}


def keys_of(snapshot: Snapshot) -> dict[str, _Value]:
    """KV key -> value of everything in a snapshot but `meta`."""
    out: dict[str, _Value] = {}
    out.update((f"domain.{token(domain.domain)}", domain) for domain in snapshot.domains.values())
    out.update((f"credential.{token(each.username)}", each) for each in snapshot.credentials.values())
    out.update((f"policy.{token(policy.name)}", policy) for policy in snapshot.policies.values())
    return out


class ConfigWatch:
    """The configuration in force here. A snapshot is never changed: each change makes a new one."""

    def __init__(self, store: Store) -> None:
        self._bucket = Bucket(store, BUCKET)
        self._watch: Watch | None = None
        self._values: dict[str, _Value] = {}
        self._callbacks: list[Callable[[Snapshot], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loaded = False
        self.snapshot = Snapshot()

    async def start(self) -> None:
        """Returns after the first load. Raises UnknownFateError when there is no answer for a quarter of a minute."""
        self._watch = await self._bucket.watch(self._changed)

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        if self._timer is not None:
            self._timer.cancel()

    def on_change(self, callback: Callable[[Snapshot], None]) -> None:
        """`callback` is called with each new snapshot from now on; the present one is `snapshot`."""
        self._callbacks.append(callback)

    def _changed(self, changes: Changes) -> None:
        for key, entry in changes.items():
            if entry is None:
                self._values.pop(key, None)
                continue
            value = _decode(entry)
            if value is not None:
                self._values[key] = value
        if not self._loaded or META in changes:
            self._take_over()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_TIME, self._take_over)

    def _take_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.snapshot = _snapshot(self._values)
        self._loaded = True
        log.info("config.loaded", generation=self.snapshot.meta.generation, domains=len(self.snapshot.domains))
        for callback in self._callbacks:
            try:
                callback(self.snapshot)
            except Exception:
                # The edge to the service: a fault there must not keep the configuration from the others.
                log.exception("config.callback_failed")


async def publish(store: Store, old: Snapshot | None, new: Snapshot) -> None:
    """Writes what differs between `old` and `new`, `meta` last; with `old` None, between the bucket and `new`.

    A credential or policy that is gone is deleted. A domain that is gone stays as `deleted`, without senders, since
    mail of it may be queued: it takes no new mail, and goes for good 30 days after, when `old` is None (at the start of
    a writer). Raises the errors of the store: publish again, it is idempotent.
    """
    bucket = Bucket(store, BUCKET)
    values: dict[str, _Value] = {}
    written: dict[str, float] = {}
    if old is not None:
        values = {**keys_of(old), META: old.meta}
    else:
        for key, entry in (await bucket.entries()).items():
            written[key] = entry.time
            value = _decode(entry)
            if value is not None:
                values[key] = value
    wanted = keys_of(new)
    for key, value in values.items():
        if isinstance(value, DomainConfig) and key not in wanted:
            if not value.deleted:
                wanted[key] = msgspec.structs.replace(value, deleted=True, senders=())
            elif old is not None or time.time() - written[key] < DELETED_KEPT:
                wanted[key] = value
    for key, value in wanted.items():
        if values.get(key) != value:
            await bucket.put(key, codec.encode(value))
    for key in (values.keys() | written.keys()) - wanted.keys() - {META}:
        await bucket.delete(key)
    if values.get(META) != new.meta:
        await bucket.put(META, codec.encode(new.meta))


def _decode(entry: Entry) -> _Value | None:
    """None for what is of no use: logged, and the last good value stays."""
    read = _READERS.get(entry.key.split(".", 1)[0])
    if read is None:
        return None  # a newer version's
    try:
        return read(entry.value)
    except codec.UndecodableError as error:
        UNREADABLE.add(1)
        log.error("config.unreadable", key=entry.key, error=str(error))
        return None


def _snapshot(values: dict[str, _Value]) -> Snapshot:
    domains: dict[str, DomainConfig] = {}
    credentials: dict[str, CredentialConfig] = {}
    policies: dict[str, DestinationConfig] = {}
    meta = Meta()
    for value in values.values():
        if isinstance(value, DomainConfig):
            domains[value.domain] = value
        elif isinstance(value, CredentialConfig):
            credentials[value.username] = value
        elif isinstance(value, DestinationConfig):
            policies[value.name] = value
        else:
            meta = value
    return Snapshot(domains=domains, credentials=credentials, policies=policies, meta=meta)
