"""INBOX: mail that was kept inside instead of leaving, for people to look at.

A mail that is larger than what NATS takes in one message is stored in parts, which are put together again here.
"""

import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec

from . import codec, subjects
from .errors import FencedError
from .events import InboxMail
from .store import Store, Stored

PART: Final = 4 << 20  # octets of content a message, half of the server's max_payload
_STREAM: Final = subjects.INBOX_STREAM
_ALL: Final = f"{subjects.INBOX_SUBJECT}.>"
_FIRST: Final = {"Nats-Expected-Last-Subject-Sequence": "0"}

Kept = tuple[int, InboxMail]
"""Sequence of the (last) message, and the mail."""


class Inbox:
    """The inbox of all services and shards."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, mail: InboxMail, lowest: int = 0) -> None:
        """Stores a mail for the group whose lowest recipient index is `lowest`, once, on disk when this returns.

        Storing it again changes nothing: each part is fenced to be the first on its subject. Raises the errors of the
        store.
        """
        parts = max(1, -(-len(mail.content) // PART))
        for part in range(parts):
            piece = msgspec.structs.replace(
                mail, content=mail.content[part * PART : (part + 1) * PART], part=part, parts=parts, lowest=lowest
            )
            with contextlib.suppress(FencedError):
                await self._store.publish(subjects.inbox(mail.mail, lowest, part), codec.encode(piece), _FIRST)

    async def list(self, limit: int = 100) -> Sequence[Kept]:
        """The newest `limit` mails, newest first, each with its sequence (of its last part)."""
        state = (await self._store.api(f"STREAM.INFO.{_STREAM}"))["state"]
        first, last = state["first_seq"], state["last_seq"]
        if not state["messages"]:
            return []
        messages: Sequence[Stored] = ()
        upper = last + 1
        while upper > first and len(_assemble(messages)) < limit:
            lower = max(first, upper - max(limit, 16))
            messages = (*await self._read(lower, upper), *messages)
            upper = lower
        return _assemble(messages)[:limit]

    async def get(self, mail_id: str) -> InboxMail | None:
        """What was kept of a mail, with the recipients of all groups that were."""
        subject = f"{subjects.INBOX_SUBJECT}.{mail_id}.>"
        found = _assemble([stored async for stored in self._store.direct(_STREAM, subject, batch=64)])
        return found[0][1] if found else None

    async def _read(self, lower: int, upper: int) -> Sequence[Stored]:
        found = []
        async with contextlib.aclosing(self._store.direct(_STREAM, _ALL, lower, batch=64)) as stream:
            async for stored in stream:
                if stored.seq >= upper:
                    break
                found.append(stored)
        return found


def _assemble(messages: Sequence[Stored]) -> list[Kept]:
    """Whole mails, newest first, the groups of one mail together. A group whose first parts have gone is left out."""
    parts: dict[tuple[str, int], dict[int, InboxMail]] = {}
    groups: dict[str, dict[int, InboxMail]] = {}
    newest: dict[str, int] = {}
    for message in messages:
        piece = codec.decode(message.data, InboxMail)
        found = parts.setdefault((piece.mail, piece.lowest), {})
        found[piece.part] = piece
        if len(found) == piece.parts:
            content = b"".join([found[number].content for number in range(piece.parts)])
            groups.setdefault(piece.mail, {})[piece.lowest] = msgspec.structs.replace(
                piece, content=content, part=0, parts=1
            )
            newest[piece.mail] = message.seq
            del parts[piece.mail, piece.lowest]
    whole = [(seq, _joined(groups[mail])) for mail, seq in newest.items()]
    whole.sort(key=lambda kept: kept[0], reverse=True)
    return whole


def _joined(groups: dict[int, InboxMail]) -> InboxMail:
    """One mail of its groups; they have all but their recipients in common."""
    in_order = [groups[lowest] for lowest in sorted(groups)]
    recipients = tuple(recipient for group in in_order for recipient in group.recipients)
    return msgspec.structs.replace(in_order[0], recipients=recipients)
