"""Control marks: what a person wants of a mail that is in hand here, watched in the bucket `state`."""

import structlog

from waypost_queue import codec
from waypost_queue.kv import Bucket, Changes, Watch
from waypost_queue.model import ControlMark
from waypost_queue.store import Store

log = structlog.get_logger(__name__)

PREFIX = "mark."


class Marks:
    """The marks in force, as the queue service writes them."""

    def __init__(self, store: Store) -> None:
        self._bucket = Bucket(store, "state")
        self._marks: dict[str, ControlMark] = {}
        self._watch: Watch | None = None

    async def start(self) -> None:
        """Returns after the first load. Raises UnknownFateError when the bucket does not answer."""
        self._watch = await self._bucket.watch(self._changed, PREFIX)

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()

    def get(self, mail: str) -> ControlMark | None:
        """The mark on a mail, if any."""
        return self._marks.get(mail)

    def _changed(self, changes: Changes) -> None:
        for key, entry in changes.items():
            mail = key.removeprefix(PREFIX)
            if entry is None:
                self._marks.pop(mail, None)
                continue
            try:
                self._marks[mail] = codec.decode(entry.value, ControlMark)
            except codec.UndecodableError as error:
                log.error("marks.unreadable", mail=mail, reason=str(error))
