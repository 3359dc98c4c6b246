"""One pass over the header of a mail, as bytes: what acceptance and history need to know; nothing is re-serialised.

The header ends at the first empty line, and only CRLF ends a line. Whatever any parser might take for a From field
counts as one: control characters or white space around the name, also folded, and fields that come after a line that is
none. Where there is no From, some show the Sender in its place, and so it is taken here. So what a reader shows as the
author is always among what was checked.
"""

import re
from typing import Final

from msgspec import Struct

from .addresses import Address
from .mailboxes import MailboxError, parse_mailboxes
from .replies import Answer, Replies

MAX_HEADER: Final = 100 * 1024  # octets
MAX_SUBJECT: Final = 200  # characters, for people
_MAX_MESSAGE_ID: Final = 998  # octets, RFC 5322 2.1.1

_NAME = re.compile(rb"[!-9;-~]+[ \t]*:")  # RFC 5322 2.2, with 4.5's white space before the colon
_FIELD = re.compile(
    rb"\n(?![ \t])[^!-9;-~\r\n]*(from|sender|received|message-id|date|subject|return-path)"
    rb"(?:[^!-9;-~\r\n]|\r\n(?=[ \t]))*:",  # who unfolds before he looks for the colon sees a field here too
    re.IGNORECASE,
)
_HOSTILE: Final = ((b"\x00", "NUL"), (b"\x0b", "a vertical tab"), (b"\x0c", "a form feed"))
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_MESSAGE_ID = re.compile(rb"<[!-;=?-~\x80-\xff]+>")


class Headers(Struct, frozen=True):
    """What the header says. Offsets are into the content that was scanned."""

    end: int  # after the last line of the header: where its empty line stands; 0 = there is no header
    needs_separator: bool  # the first line is no field: what is prepended must end in an empty line
    from_: tuple[Address, ...]  # every mailbox of the From field, else of the Sender field; () = there is neither
    received: int
    message_id: str  # with angle brackets; "" = none
    has_message_id: bool  # a field is there, even if nothing could be made of it
    has_date: bool
    subject: str  # unfolded, printable, cut to 200 characters
    return_paths: tuple[tuple[int, int], ...]  # spans of Return-Path fields, to be left out


_NO_HEADER: Final = Headers(0, False, (), 0, "", False, False, "", ())
_ALL_BODY: Final = Headers(0, True, (), 0, "", False, False, "", ())


def scan(content: bytes, limit: int = MAX_HEADER) -> Headers | Answer:
    """The header of `content`, or the refusal that it earns: too big, hostile octets, several or unreadable From."""
    if content[:2] == b"\r\n" or not content:
        return _NO_HEADER
    if _NAME.match(content) is None:
        return _ALL_BODY
    end = content.find(b"\r\n\r\n", 0, limit + 2)
    if end < 0:
        if len(content) > limit:
            return Replies.HEADER_TOO_BIG(limit=limit)
        end = len(content)
    else:
        end += 2
    head = b"\n" + content[:end]  # every field now follows a line feed; offsets are one too high
    refusal = _hostile(head)
    if refusal is not None:
        return refusal

    authors: list[bytes] = []
    senders: list[bytes] = []
    received = 0
    message_id = subject = b""
    has_date = has_message_id = False
    return_paths: list[tuple[int, int]] = []
    for match in _FIELD.finditer(head):
        start = match.end()
        stop = head.find(b"\r\n", start)
        while stop >= 0 and head[stop + 2 : stop + 3] in (b" ", b"\t"):
            stop = head.find(b"\r\n", stop + 2)
        if stop < 0:
            stop = len(head)
        match match[1].lower():
            case b"from":
                authors.append(head[start:stop])
            case b"sender":
                senders.append(head[start:stop])
            case b"received":
                received += 1
            case b"message-id":
                has_message_id = True
                message_id = message_id or head[start:stop]
            case b"date":
                has_date = True
            case b"subject":
                subject = subject or head[start:stop]
            case _ if match.start(1) == match.start() + 1:  # disguised, it is none and stays as it came
                return_paths.append((match.start(), min(stop + 1, end)))
    if len(authors) > 1:
        return Replies.MANY_FROM(count=len(authors))
    mailboxes: tuple[Address, ...] = ()
    if authors or senders:
        try:
            mailboxes = parse_mailboxes(_FOLD.sub(b"", (authors or [b",".join(senders)])[0]))
        except MailboxError as error:
            return Replies.BAD_FROM(reason=str(error))
    return Headers(
        end,
        False,
        mailboxes,
        received,
        _message_id(message_id),
        has_message_id,
        has_date,
        _readable(subject) if subject else "",
        tuple(return_paths),
    )


def _hostile(head: bytes) -> Answer | None:
    """Refuse what some reader takes for a line end and others do not (header injection)."""
    for octet, name in _HOSTILE:
        if octet in head:
            return Replies.HOSTILE_HEADER(what=name)
    pairs = head.count(b"\r\n")
    if head.count(b"\r") != pairs or head.count(b"\n") != pairs + 1:
        return Replies.HOSTILE_HEADER(what="a bare CR or LF")
    return None


def _message_id(value: bytes) -> str:
    if not value:
        return ""
    match = _MESSAGE_ID.search(value)
    return match[0][:_MAX_MESSAGE_ID].decode("utf-8", "replace") if match else ""


def _readable(value: bytes) -> str:
    """A field's value for people: unfolded, without control characters, at most 200 characters."""
    text = _FOLD.sub(b"", value[: 8 * MAX_SUBJECT]).decode("utf-8", "replace").strip()[:MAX_SUBJECT]
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
