"""Control marks: what a person wants of a mail that its owner has in hand, until it is heeded.

A mark lies in KV `state` at `mark.<mail>`; delivery watches the bucket and heeds it before an attempt and before its
next schedule. That schedule may have been on its way when the mark was put: so each mark is looked at each second, what
has come to wait meanwhile is acted upon, and the mark goes once its mail has gone (or, for a hold, is held whole).
"""

import itertools
from collections.abc import Awaitable, Callable

import opentelemetry.metrics
import structlog
from msgspec import Struct

from waypost_queue import codec, ids, listing, subjects
from waypost_queue.kv import Bucket
from waypost_queue.model import Bundle, ControlMark
from waypost_queue.store import Store

log = structlog.get_logger(__name__)
_meter = opentelemetry.metrics.get_meter("waypost")

MARKS_ENDED = _meter.create_counter(
    "waypost.marks.ended",
    unit="{mark}",
    description="Control marks taken away: heeded (the mail is held as asked), gone (the mail has left the queue)",
)

PREFIX = "mark."
AT_ONCE = 200  # marks looked at each second; more take turns
_BUNDLE_LOOKS = 20  # bundles asked for by sequence in one review: each answer carries the bundle

Act = Callable[[ControlMark, str], Awaitable[bool]]
"""Applies a mark to the ticket at a subject; whether nothing remains to be done for it."""


class _Pending(Struct):
    mark: ControlMark
    bundle: int | None = None  # sequence in INTAKE; None = not known yet, 0 = it has gone


class Marks:
    """The marks that are in force. Only the active queue service writes them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bucket = Bucket(store, "state")
        self._pending: dict[str, _Pending] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def get(self, mail: str) -> ControlMark | None:
        pending = self._pending.get(mail)
        return None if pending is None else pending.mark

    async def load(self) -> None:
        """Reads what an earlier leader left."""
        self._pending.clear()
        for key, entry in (await self._bucket.entries(PREFIX)).items():
            try:
                mark = codec.decode(entry.value, ControlMark)
            except codec.UndecodableError as error:
                log.error("marks.undecodable", key=key, reason=str(error))
                continue
            self._pending[mark.mail] = _Pending(mark)

    async def put(self, mark: ControlMark, bundle: int | None) -> None:
        """In force once this returns. `bundle`: where the mail lies in INTAKE, None if that is not known."""
        await self._bucket.put(PREFIX + mark.mail, codec.encode(mark))
        self._pending[mark.mail] = _Pending(mark, bundle)

    async def drop(self, mail: str) -> None:
        if mail in self._pending:
            await self._bucket.delete(PREFIX + mail)
            self._pending.pop(mail, None)

    async def review(self, act: Act) -> None:
        """One look at up to AT_ONCE marks, the longest unseen first."""
        turn = list(itertools.islice(self._pending, AT_ONCE))
        looks = _BUNDLE_LOOKS
        for mail in turn:
            pending = self._pending.pop(mail, None)
            if pending is None:
                continue
            self._pending[mail] = pending  # to the end of the row
            looks -= await self._review(pending, act, looks > 0)

    async def _review(self, pending: _Pending, act: Act, may_look: bool) -> bool:
        """Whether a bundle was asked for. The bundle first, then the tickets: mail only ever moves that way."""
        mark = pending.mark
        looked = pending.bundle != 0 and may_look
        if looked:
            pending.bundle = await self._bundle(mark.mail, pending.bundle)
        found = await listing.tickets_of(self._store, mark.mail)
        concerned = [f for f in found if mark.domain in ("", f.ticket.domain)]
        heeded = True
        for subject in {f.subject for f in concerned}:
            heeded = await act(mark, subject) and heeded
        if pending.bundle == 0 and heeded and self._pending.get(mark.mail) is pending:
            await self.drop(mark.mail)
            MARKS_ENDED.add(1, {"why": "heeded" if concerned else "gone"})
            log.info("marks.ended", mail=mark.mail, action=mark.action, tickets=len(concerned))
        return looked

    async def _bundle(self, mail: str, seq: int | None) -> int | None:
        if seq is None:
            return await find_bundle(self._store, mail)
        return seq if await self._store.at(subjects.intake_stream(ids.shard_of(mail)), seq) is not None else 0


async def find_bundle(store: Store, mail: str) -> int | None:
    """The sequence of the bundle that holds a mail; 0 if none does, None if too much waits to be sure."""
    shard = ids.shard_of(mail)
    stream = subjects.intake_stream(shard)
    state = (await store.api(f"STREAM.INFO.{stream}"))["state"]
    if not state["messages"]:
        return 0
    needle = mail.encode()
    left = listing.SCAN_BYTES
    async for stored in store.direct(stream, f"intake{shard}.>", state["first_seq"], 64):
        left -= len(stored.data)
        # the id stands in its own mail, and in a DSN about it: a look at the octets spares the decoding of all others
        if needle in stored.data and _holds(stored.data, mail):
            return stored.seq
        if left < 0:
            return None
    return 0


def _holds(data: bytes, mail: str) -> bool:
    try:
        return any(m.id == mail for m in codec.decode(data, Bundle).mails)
    except codec.UndecodableError:
        return False
