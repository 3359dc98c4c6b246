"""SPOOL: bodies that are too large for a bundle, and the bodies of tickets, in chunks of 512 KiB.

Nothing here has a TTL: a body goes with the last of its mail, by the body check or the sweep.
"""

import asyncio
from typing import Final

import opentelemetry.metrics

from . import ids, subjects
from .errors import FencedError, UnavailableError, UnknownFateError
from .model import CHUNK, Mail
from .store import Store
from .work import BodyMissingError

RETRY_FOR: Final = 20.0  # s for each chunk: longer than a leader election
_DELAY: Final = 0.25  # s
_AT_ONCE: Final = 4  # chunks of one body on their way
_NOT_THERE: Final = {"Nats-Expected-Last-Subject-Sequence": "0"}

_meter = opentelemetry.metrics.get_meter("waypost")
STORED = _meter.create_counter(
    "waypost.spool.bodies", unit="{body}", description="Bodies put to the spool, whole and acknowledged."
)
BEHIND = _meter.create_counter(
    "waypost.spool.leader_reads",
    unit="{chunk}",
    description="Chunks that a replica did not have yet and that were asked of the leader.",
)


class Spool:
    """Bodies of every shard: a mail's id says which."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, mail_id: str, content: bytes) -> int:
        """Stores the body; the number of its chunks, each on disk. At least one, be the body empty.

        Putting the same body again is harmless. Raises FullError (452), UnavailableError or UnknownFateError (451, or
        let go of the message): what was stored of it is then an orphan, which the sweep takes.
        """
        shard = ids.shard_of(mail_id)
        view = memoryview(content)
        count = max(1, -(-len(content) // CHUNK))
        for first in range(0, count, _AT_ONCE):
            results = await asyncio.gather(
                *(
                    self._put_chunk(
                        subjects.spool(shard, mail_id, number), bytes(view[number * CHUNK : (number + 1) * CHUNK])
                    )
                    for number in range(first, min(first + _AT_ONCE, count))
                ),
                return_exceptions=True,
            )
            for result in results:
                if result is not None:
                    raise result
        STORED.add(1)
        return count

    async def _put_chunk(self, subject: str, chunk: bytes) -> None:
        """Until the chunk is there, once: a mail's content never changes, so a chunk that is there is this one."""
        deadline = asyncio.get_running_loop().time() + RETRY_FOR
        while True:
            try:
                await self._store.publish(subject, chunk, _NOT_THERE)
                return
            except FencedError:
                return
            except (UnavailableError, UnknownFateError):
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_DELAY)

    async def get(self, mail: Mail) -> bytes:
        """The body of `mail`: its own content, or its chunks.

        Raises BodyMissingError when the leader has not every chunk, and the errors of the store.
        """
        if mail.content is not None:
            return mail.content
        return await self.read(mail.id, mail.chunks, mail.size)

    async def read(self, mail_id: str, chunks: int, size: int) -> bytes:
        """The body in `chunks` chunks; BodyMissingError unless it is whole and of `size` octets."""
        shard = ids.shard_of(mail_id)
        stream = subjects.spool_stream(shard)
        found: dict[str, bytes] = {}
        async for stored in self._store.direct(stream, subjects.spool_all(shard, mail_id), batch=min(chunks + 4, 64)):
            found[stored.subject] = stored.data
        parts = []
        for number in range(chunks):
            subject = subjects.spool(shard, mail_id, number)
            part = found.get(subject)
            if part is None:
                # A replica may be behind: only the leader can say that something is not there.
                BEHIND.add(1)
                last = await self._store.last(stream, subject)
                if last is None:
                    raise BodyMissingError(f"{mail_id}: chunk {number} of {chunks} is not in {stream}")
                part = last.data
            parts.append(part)
        body = b"".join(parts)
        if len(body) != size:
            raise BodyMissingError(f"{mail_id}: {len(body)} octets in {stream}, not {size}")
        return body

    async def purge(self, mail_id: str) -> None:
        """Removes every chunk of the body. SPOOL has no consumers, so a filtered purge is safe there."""
        shard = ids.shard_of(mail_id)
        await self._store.api(
            f"STREAM.PURGE.{subjects.spool_stream(shard)}", {"filter": subjects.spool_all(shard, mail_id)}
        )
