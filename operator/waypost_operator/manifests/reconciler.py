"""What is in files, brought into force: read, compile, make what is wanted, publish, and say how it stands.

Each step is idempotent, and a pass that fails is run again whole. The order matters: passwords are sealed before a
route names them, and the configuration is published before a status claims it.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import opentelemetry.metrics
import structlog

from waypost_config.compiler import Compiled, Settings, compile_manifests
from waypost_config.credentials import Server
from waypost_config.manifests import Manifests, Problem
from waypost_config.resources import Key, Namespace, ObjectMeta, Resource, parse
from waypost_config.status import STATUS_PREFIX, StoredObject, status_key
from waypost_queue import codec, config, configwatch
from waypost_queue.configwatch import ConfigWatch
from waypost_queue.kv import Bucket
from waypost_queue.seal import Sealer, SealError
from waypost_queue.store import Store

from . import secretfiles
from .hashing import Hasher
from .lastgood import with_last_good
from .objects import Pods, numbered, own, statuses
from .reading import Reading

log = structlog.get_logger(__name__)

CATCH_UP: Final = 10.0  # s until our own writes must have come back by the watch
GONE_FOR: Final = 0.5  # s that an object must be gone
_PASSES: Final = 3  # of compiling: a second one sees the Secrets that the first one wanted

_meter = opentelemetry.metrics.get_meter("waypost")
PROBLEMS = _meter.create_gauge(
    "waypost.manifests.problems",
    unit="{problem}",
    description="What is wrong with the manifests now; the last good version of each object is in force.",
)
GENERATION = _meter.create_gauge(
    "waypost.config.generation",
    unit="{generation}",
    description="Generation of the configuration that was published last.",
)


class Reconciler:
    """The one writer of the configuration. `apply` brings the files into force, `tell` the statuses up to date."""

    def __init__(
        self,
        store: Store,
        watch: ConfigWatch,
        reading: Reading,
        sealer: Sealer,
        settings: Settings,
        *,
        secrets_dir: Path,
        server: Server,
    ) -> None:
        self._store = store
        self._watch = watch
        self._reading = reading
        self._sealer = sealer
        self._settings = settings
        self._secrets_dir = secrets_dir
        self._server = server
        self._hasher = Hasher()
        self._state = Bucket(store, "state")
        self._keys = Bucket(store, "keys")
        self._news = asyncio.Event()
        watch.on_change(lambda _snapshot: self._news.set())
        self._known: dict[Key, Resource] | None = None  # the last good version of each
        self._stored: dict[Key, StoredObject] = {}
        self._since: dict[Key, int] = {}  # generation of the configuration that brought the object's present one
        self._last: tuple[Manifests, Compiled, list[Problem]] | None = None
        self._said: frozenset[str] = frozenset()
        self.looking_again = False  # something is gone, and may come back

    async def apply(self) -> None:
        """One pass. Raises StoreError, OSError or TimeoutError; what was done stays done."""
        if self._known is None:
            await self._load()
        previous = self._watch.snapshot
        manifests, compiled, problems = await asyncio.to_thread(self._compile, previous)
        await self._seal(compiled.keys)
        first = self._last is None
        await configwatch.publish(self._store, None if first else previous, compiled.snapshot)
        await self._caught_up(compiled.snapshot.meta.generation)
        self._date(previous, compiled, manifests)
        self._known = {resource.meta.key: resource for resource in manifests.resources()}
        self._last = (manifests, compiled, problems)
        await self._drop_keys()
        GENERATION.set(compiled.snapshot.meta.generation)
        self._say(problems)

    async def tell(self, running: Mapping[str, list[int]]) -> None:
        """Writes the statuses that changed. `running`: service -> the generation that each of its processes runs."""
        if self._last is None:
            return
        manifests, compiled, problems = self._last
        pods = {key: _pods(running, self._since.get(key, 0)) for key in own(manifests)}
        found = statuses(manifests, compiled, problems, self._stored, pods, time.time())
        found.update((key, _remembered(namespace)) for key, namespace in manifests.namespaces.items())
        for key, status in found.items():
            if self._stored.get(key) != status:
                await self._state.put(status_key(key), codec.encode(status))
                self._stored[key] = status
        for key in self._stored.keys() - found.keys():
            await self._state.delete(status_key(key))
            del self._stored[key]

    async def _load(self) -> None:
        """What was in force before this process started: statuses, and with them the last good versions."""
        known: dict[Key, Resource] = {}
        for name, entry in (await self._state.entries(STATUS_PREFIX)).items():
            try:
                stored = codec.decode(entry.value, StoredObject)
            except codec.UndecodableError as error:
                log.warning("manifests.status_unreadable", key=name, error=str(error))
                continue
            self._stored[stored.key] = stored
            if stored.kind == "Namespace":
                known[stored.key] = Namespace(meta=_meta(stored))
                continue
            resource = parse(stored.manifest(), file=stored.file)[0] if stored.spec else None
            if resource is not None:
                known[stored.key] = msgspec.structs.replace(resource, meta=_meta(stored))
        self._known = known

    def _compile(self, previous: config.Snapshot) -> tuple[Manifests, Compiled, list[Problem]]:
        """In a thread: files are read, passwords hashed, wanted Secrets made and read back."""
        self._hasher.start(previous)
        for _ in range(_PASSES):
            current, problems = self._read()
            manifests = numbered(with_last_good(current, self._known or {}), self._stored, time.time())
            compiled = compile_manifests(
                manifests, settings=self._settings, hash_password=self._hasher, previous=previous
            )
            if not self._make(compiled, manifests):
                break
        self._hasher.end(compiled.snapshot)
        return manifests, compiled, [*problems, *compiled.problems]

    def _read(self) -> tuple[Manifests, list[Problem]]:
        """All files. What is gone is looked for again a moment later: an editor empties a file, or takes it away,
        before it writes it anew, and a domain that ends for that moment refuses its mail."""
        current, problems = self._reading.read()
        found = {resource.meta.key for resource in current.resources()} | current.broken
        if self._known and not self._known.keys() <= found:
            self.looking_again = True
            time.sleep(GONE_FOR)
            current, problems = self._reading.read()
            self.looking_again = False
        return current, problems

    def _make(self, compiled: Compiled, manifests: Manifests) -> bool:
        """Whether a Secret was made or written again."""
        changed = False
        for wanted in compiled.wanted_secrets:
            try:
                path = secretfiles.make(self._secrets_dir, wanted, self._server)
            except OSError as error:  # its MailDomain says that it is missing; the others go on
                log.error("manifests.secret_not_made", secret=f"{wanted.namespace}/{wanted.name}", error=str(error))
                continue
            log.info("manifests.secret_made", secret=f"{wanted.namespace}/{wanted.name}", file=str(path))
            changed = True
        for secret in manifests.secrets.values():
            changed = secretfiles.refresh(self._secrets_dir, secret, self._server) or changed
        return changed

    async def _seal(self, keys: Mapping[str, str]) -> None:
        for name, password in keys.items():
            entry = await self._keys.get(name)
            if entry is None or not self._opens_to(name, entry.value, password.encode()):
                await self._keys.put(name, self._sealer.seal(name, password.encode()))

    def _opens_to(self, name: str, sealed: bytes, wanted: bytes) -> bool:
        try:
            return self._sealer.open(name, sealed) == wanted
        except SealError:
            return False  # sealed with another key

    async def _drop_keys(self) -> None:
        """Passwords that no route names go; those of deleted domains, whose mail may be queued, stay."""
        snapshot = self._watch.snapshot
        routes = [domain.route for domain in snapshot.domains.values()]
        routes += [policy.route for policy in snapshot.policies.values() if policy.route is not None]
        named = {route.smarthost.secret for route in routes if route.smarthost is not None}
        for name in (await self._keys.entries("smarthost.")).keys() - named:
            await self._keys.delete(name)

    async def _caught_up(self, generation: int) -> None:
        """The next pass compares with what the watch has: it must have this one."""
        async with asyncio.timeout(CATCH_UP):
            while self._watch.snapshot.meta.generation < generation:
                self._news.clear()
                await self._news.wait()

    def _date(self, previous: config.Snapshot, compiled: Compiled, manifests: Manifests) -> None:
        """Notes in which generation of the configuration each object's present one came."""
        generation = compiled.snapshot.meta.generation
        for key in self._since.keys() - own(manifests).keys():
            del self._since[key]
        for key, resource in manifests.domains.items():
            name = resource.spec.domain
            if key not in self._since or previous.domains.get(name) != compiled.snapshot.domains.get(name):
                self._since[key] = generation
        for key in manifests.policies:
            if key not in self._since or previous.policies.get(key.name) != compiled.snapshot.policies.get(key.name):
                self._since[key] = generation

    def _say(self, problems: list[Problem]) -> None:
        """Each problem once, when it comes; and once that all is well again."""
        texts = frozenset(str(problem) for problem in problems)
        PROBLEMS.set(len(texts))
        for text in sorted(texts - self._said):
            log.error("manifests.problem", problem=text)
        if self._said and not texts:
            log.info("manifests.good")
        self._said = texts


def _remembered(namespace: Namespace) -> StoredObject:
    """A namespace without status: its last good labels and annotations give rights, and outlive this process."""
    meta = namespace.meta
    key = meta.key
    return StoredObject(kind=key.kind, name=key.name, labels=meta.labels, annotations=meta.annotations, file=meta.file)


def _meta(stored: StoredObject) -> ObjectMeta:
    return ObjectMeta(
        key=stored.key,
        labels=stored.labels,
        annotations=stored.annotations,
        created=stored.created or None,
        generation=stored.generation,
        file=stored.file,
    )


def _pods(running: Mapping[str, list[int]], since: int) -> Pods:
    return {service: (sum(one >= since for one in each), len(each)) for service, each in running.items()}
