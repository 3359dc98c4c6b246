"""Bundles that are published again: forgotten by the server, or held whole and released.

The bytes go to `intake<s>.<pool>.<lane>.heal-<seq>`, marked "recover me", with fence 0 (a dedupe window alone would let
a second copy in). The original is deleted only once its copy has gone: tickets name its sequence, and the body check
asks for it.
"""

import structlog
from msgspec import structs

from waypost_queue import codec, subjects
from waypost_queue.errors import FencedError
from waypost_queue.listing import HELD_BUNDLE, Found
from waypost_queue.model import Bundle
from waypost_queue.store import Store, Stored
from waypost_queue.subjects import TicketSubject

from . import moves

log = structlog.get_logger(__name__)


class Copies:
    """The copies of one shard that are under way."""

    def __init__(self, store: Store, shard: int) -> None:
        self._store = store
        self._shard = shard
        self._originals: dict[tuple[str, int], str] = {}  # (stream, sequence) -> ident of its copy

    async def publish_again(self, stored: Stored) -> bool:
        """A message of INTAKE that its consumer has forgotten; False when its copy is under way already."""
        _, pool, lane, _ = stored.subject.split(".")
        return await self._copy(subjects.intake_stream(self._shard), stored.seq, pool, lane, stored.seq, stored)

    async def release(self, found: Found) -> None:
        """A bundle that is held whole, tried again."""
        at = TicketSubject(found.subject)
        held = Stored(found.subject, found.seq, found.stored, found.data)
        bundle_seq = int(at.mail.removeprefix(HELD_BUNDLE))
        await self._copy(subjects.queue_stream(self._shard), found.seq, at.pool, at.lane, bundle_seq, held)

    async def settle(self) -> int:
        """Deletes the originals whose copies have gone; how many."""
        ended = 0
        for (stream, seq), ident in list(self._originals.items()):
            copy = await self._store.last(subjects.intake_stream(self._shard), subjects.intake_any(self._shard, ident))
            if copy is None:
                await moves.delete(self._store, stream, seq)
                del self._originals[stream, seq]
                ended += 1
        return ended

    async def _copy(self, stream: str, seq: int, pool: str, lane: str, bundle_seq: int, stored: Stored) -> bool:
        if (stream, seq) in self._originals:
            return False
        ident = f"heal-{bundle_seq}"
        headers = {
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": subjects.intake_any(self._shard, ident),
        }
        try:
            await self._store.publish(
                subjects.intake(self._shard, pool, lane, ident), _marked(stored, bundle_seq), headers
            )
            published = True
        except FencedError:
            published = False  # it is there: by an earlier leader, or by a publish whose answer was lost
        self._originals[stream, seq] = ident
        return published


def _marked(stored: Stored, bundle_seq: int) -> bytes:
    """The bundle marked for recovery; what can't be decoded is copied as it is, and held again with its reason."""
    try:
        bundle = codec.decode(stored.data, Bundle)
    except codec.UndecodableError:
        return stored.data
    return codec.encode(
        structs.replace(
            bundle,
            marked=True,
            origin_seq=bundle.origin_seq or bundle_seq,
            origin_time=bundle.origin_time or min(stored.time, *(mail.accepted for mail in bundle.mails)),
        )
    )
