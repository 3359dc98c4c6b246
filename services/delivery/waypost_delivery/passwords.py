"""Smarthosts' passwords: watched in the bucket `keys`, where they lie sealed, and opened when one is needed."""

import structlog
from pydantic import SecretStr

from waypost_queue.kv import Bucket, Changes, Watch
from waypost_queue.seal import Sealer, SealError
from waypost_queue.store import Store

log = structlog.get_logger(__name__)

BUCKET = "keys"


class Passwords:
    """Those that `sealer` opens; without one (no key is mounted) there are none."""

    def __init__(self, store: Store, sealer: Sealer | None) -> None:
        self._bucket = Bucket(store, BUCKET)
        self._sealer = sealer
        self._sealed: dict[str, bytes] = {}
        self._opened: dict[str, SecretStr] = {}
        self._watch: Watch | None = None

    async def start(self) -> None:
        """Returns after the first load. Raises UnknownFateError when the bucket does not answer."""
        self._watch = await self._bucket.watch(self._changed)

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()

    def get(self, name: str) -> SecretStr | None:
        """The password under `name`; None: there is none, or it can't be opened with this key (the log says so once)."""
        opened = self._opened.get(name)
        if opened is not None:
            return opened
        sealed = self._sealed.get(name)
        if sealed is None or self._sealer is None:
            return None
        try:
            opened = SecretStr(self._sealer.open(name, sealed).decode())
        except (SealError, UnicodeDecodeError) as error:
            log.error(
                "passwords.unreadable", name=name, reason=str(error) if isinstance(error, SealError) else "no text"
            )
            del self._sealed[name]
            return None
        self._opened[name] = opened
        return opened

    def _changed(self, changes: Changes) -> None:
        for name, entry in changes.items():
            self._opened.pop(name, None)
            if entry is None:
                self._sealed.pop(name, None)
            else:
                self._sealed[name] = entry.value
