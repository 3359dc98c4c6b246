"""KV buckets (ADR-8) by raw requests: what is read for a decision is read from the leader, and a watch misses nothing.

A delete leaves a marker, so that watchers hear of it; the marker goes by itself after `MARKER_TTL` (a bucket of control
marks would else grow by one for each mail that ever had one). A watch that was cut off, for however long, loads the
bucket anew and tells what changed and what has gone meanwhile, so no marker needs to outlive it.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from msgspec import Struct

from .errors import FencedError, UnknownFateError
from .ordered import Batch, OrderedReader, Start
from .store import Store, Stored

log = structlog.get_logger(__name__)

MARKER_TTL: Final = "3600s"
LOAD_TIMEOUT: Final = 15.0  # s for the first load of a watch
_GONE: Final = frozenset({"DEL", "PURGE"})


class Entry(Struct, frozen=True):
    """A key's value; `revision` fences the next update, `time` is the stream's."""

    key: str
    value: bytes
    revision: int
    time: float


Changes = Mapping[str, Entry | None]
"""Key -> its entry, or None when it has gone."""


class Bucket:
    """One bucket. Keys are made of [A-Za-z0-9/_=.-]; text from outside goes through `subjects.token` first."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def get(self, key: str) -> Entry | None:
        """The entry, asked of the leader."""
        stored = await self._store.last(self._stream, self._prefix + key)
        return None if stored is None else self._entry(stored)

    async def put(self, key: str, value: bytes) -> int:
        """Writes whatever is there; the new revision."""
        return (await self._store.publish(self._prefix + key, value)).seq

    async def create(self, key: str, value: bytes) -> int:
        """Writes a key that is not there; FencedError if it is."""
        try:
            return await self.update(key, value, 0)
        except FencedError:
            stored = await self._store.last(self._stream, self._prefix + key)
            if stored is None or self._entry(stored) is not None:
                raise
            return await self.update(key, value, stored.seq)  # in the place of its delete marker

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Writes if the key is still at `revision`, else FencedError; the new revision."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        return (await self._store.publish(self._prefix + key, value, headers)).seq

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Deletes, given a revision only if the key is still at it (else FencedError). A full store refuses it."""
        headers = {"KV-Operation": "DEL", "Nats-TTL": MARKER_TTL}
        if revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        await self._store.publish(self._prefix + key, b"", headers)

    async def entries(self, prefix: str = "") -> dict[str, Entry]:
        """All entries whose keys begin with `prefix`, which ends in a dot ("domain.") or is empty.

        A replica may answer, a moment behind: for listings, never for the question whether a key exists.
        """
        found: dict[str, Entry] = {}

        def take(changes: Changes) -> None:
            found.update((key, entry) for key, entry in changes.items() if entry is not None)

        watch = await self.watch(take, prefix)
        await watch.close()
        return found

    async def watch(self, callback: Callable[[Changes], None], prefix: str = "") -> "Watch":
        """Calls `callback` with all that is there (before this returns), then with each change, until closed.

        `prefix` ends in a dot or is empty. A key that expires by the bucket's age makes no change until the next
        reconnect. Raises UnknownFateError when the first load takes longer than `LOAD_TIMEOUT`.
        """
        watch = Watch(self, self._store, prefix, callback)
        await watch.start()
        return watch

    def _entry(self, stored: Stored) -> Entry | None:
        """None for a delete marker."""
        if stored.headers.get("KV-Operation") in _GONE or "Nats-Marker-Reason" in stored.headers:
            return None
        return Entry(stored.subject[len(self._prefix) :], stored.data, stored.seq, stored.time)


class Watch:
    """A running watch; made by `Bucket.watch`."""

    def __init__(self, bucket: Bucket, store: Store, prefix: str, callback: Callable[[Changes], None]) -> None:
        self._bucket = bucket
        self._callback = callback
        self._known: dict[str, int] = {}  # key -> revision
        self._load: dict[str, Entry | None] | None = None  # what a new consumer has told, until it has told all
        self._loaded = asyncio.Event()
        self._reader = OrderedReader(
            store,
            bucket._stream,
            f"{bucket._prefix}{prefix}>",
            lambda: Start(deliver_policy="last_per_subject"),
            self._deliver,
        )

    async def start(self) -> None:
        self._reader.start()
        try:
            async with asyncio.timeout(LOAD_TIMEOUT):
                await self._loaded.wait()
        except TimeoutError as error:
            await self.close()
            why = self._reader.trouble or "no answer"
            raise UnknownFateError(f"KV bucket {self._bucket.name}: not loaded in {LOAD_TIMEOUT:g} s: {why}") from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        await self._reader.close()

    async def _deliver(self, batch: Batch) -> None:
        if batch.fresh:
            self._load = {}
        entries = {message.subject[len(self._bucket._prefix) :]: message for message in batch.messages}
        told = {key: self._bucket._entry(message) for key, message in entries.items()}
        if self._load is None:
            self._tell(told)
            return
        self._load.update(told)
        if batch.pending:
            return
        load, self._load = self._load, None
        for key in self._known:
            load.setdefault(key, None)  # it has gone, its marker too
        self._tell(load)
        self._loaded.set()

    def _tell(self, told: dict[str, Entry | None]) -> None:
        """Calls back with what is news."""
        changes: dict[str, Entry | None] = {}
        for key, entry in told.items():
            if entry is None:
                if self._known.pop(key, None) is not None:
                    changes[key] = None
            elif self._known.get(key, 0) != entry.revision:
                self._known[key] = entry.revision
                changes[key] = entry
        if changes or not self._loaded.is_set():
            try:
                self._callback(changes)
            except Exception:
                # The edge between the watch and its user: one bad value must not end the watch of all others.
                log.exception("kv.callback_failed", bucket=self._bucket.name, keys=len(changes))
