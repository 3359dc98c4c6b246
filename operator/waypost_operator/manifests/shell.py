"""When the reconciler runs: on a change of files, after a failure, and each half minute; and what readiness says."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog
from watchfiles import Change, awatch

from waypost_config.manifests import SUFFIXES
from waypost_queue.errors import StoreError
from waypost_runtime import process

from .reconciler import Reconciler

log = structlog.get_logger(__name__)

TICK: Final = 1.0  # s: how soon a status follows what the services run
REREAD: Final = 30.0  # s: files are read again without a notice, since a mount may send none
UNWATCHED: Final = 5  # ticks after which a new watch stands for sure: until then files are read at each
RETRY_FIRST: Final = 0.5  # s, doubled up to
RETRY_LAST: Final = 15.0
DEBOUNCE: Final = 300  # ms: an editor writes a file in several steps

Running = Callable[[], Mapping[str, list[int]]]
"""Service -> generation of the configuration that each of its processes runs."""


class Shell:
    """The loop around the reconciler: when to run it, and what to say when it can't."""

    def __init__(self, reconciler: Reconciler, folders: list[Path], running: Running) -> None:
        self._reconciler = reconciler
        self._folders = folders
        self._running = running
        self._files_changed = asyncio.Event()
        self._other_folders = asyncio.Event()
        self._folders_seen = [_identity(folder) for folder in folders]
        self._unwatched = UNWATCHED
        self.problem = "the first configuration is not published yet"  # of readiness

    async def run(self, *ends: asyncio.Event) -> None:
        """Until one of `ends` is set."""
        watching = asyncio.create_task(self._watch(), name="manifests-watch")
        due, delay = 0.0, RETRY_FIRST
        try:
            while not any(end.is_set() for end in ends):
                self._look_at_folders()
                if self._files_changed.is_set() or time.monotonic() >= due:
                    self._files_changed.clear()
                    if await self._apply():
                        due, delay = time.monotonic() + REREAD, RETRY_FIRST
                    else:
                        due, delay = time.monotonic() + delay, min(delay * 2, RETRY_LAST)
                await self._tell()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.first_of(*ends, self._files_changed), TICK)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _apply(self) -> bool:
        try:
            await self._reconciler.apply()
        except (StoreError, OSError, TimeoutError) as error:
            if not self.problem:
                self.problem = "manifests changed and could not be published"
            log.warning("manifests.apply_failed", error=str(error) or type(error).__name__)
            return False
        self.problem = ""
        return True

    async def _tell(self) -> None:
        try:
            await self._reconciler.tell(self._running())
        except StoreError as error:
            log.warning("manifests.status_failed", error=str(error))

    def _look_at_folders(self) -> None:
        """A folder that was replaced, or came back, is another one to the kernel: the old one's watch is silent."""
        found = [_identity(folder) for folder in self._folders]
        if found != self._folders_seen:
            self._folders_seen = found
            self._other_folders.set()
            self._unwatched = UNWATCHED
        if self._unwatched:
            self._unwatched -= 1
            self._files_changed.set()

    async def _watch(self) -> None:
        """Sets the event whenever a manifest may have changed. A folder that is away is looked for again."""
        while True:
            self._other_folders.clear()
            try:
                async for _changes in awatch(
                    *self._folders, watch_filter=_manifest, debounce=DEBOUNCE, stop_event=self._other_folders
                ):
                    self._files_changed.set()
            except OSError as error:
                log.warning("manifests.not_watched", error=str(error), every=REREAD)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._other_folders.wait(), REREAD)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _manifest(_change: Change, path: str) -> bool:
    """Manifests, and the `..data` link that Kubernetes swaps when a mounted ConfigMap changes."""
    name = Path(path).name
    return name.startswith("..") or (not name.startswith(".") and Path(path).suffix in SUFFIXES)
