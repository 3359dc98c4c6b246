"""Smarthosts' passwords: watched in the bucket `keys`, where they lie sealed, and opened when one is needed."""

from pathlib import Path

import structlog
from pydantic import SecretStr

from waypost_queue.kv import Bucket, Changes, Watch
from waypost_queue.seal import Sealer, SealError, load_key
from waypost_queue.store import Store

log = structlog.get_logger(__name__)

BUCKET = "keys"


class Passwords:
    """Those that the key in a file opens. The file is read when the first password is needed: who delivers by MX alone
    needs none, and on a first start it may be made after this process began."""

    def __init__(self, store: Store, key_file: Path) -> None:
        self._bucket = Bucket(store, BUCKET)
        self._key_file = key_file
        self._sealer: Sealer | None = None
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
        """The password under `name`; None: it is not there, or can't be opened (the log says why)."""
        opened = self._opened.get(name)
        if opened is not None:
            return opened
        sealed = self._sealed.get(name)
        if sealed is None:
            return None
        try:
            if self._sealer is None:
                self._sealer = Sealer(load_key(self._key_file, create=False))
            opened = SecretStr(self._sealer.open(name, sealed).decode())
        except SealError as error:
            log.error("passwords.unreadable", name=name, reason=str(error))
            return None
        except UnicodeDecodeError:
            log.error("passwords.unreadable", name=name, reason="it is no text in UTF-8")
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
