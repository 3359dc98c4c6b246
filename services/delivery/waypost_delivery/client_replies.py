"""Replies of a next hop: read from the wire, classed, and made fit to be shown.

A remote is a stranger: whatever it sends is bounded, and nothing of it reaches a log, a page or a DSN but one printable
line. What is no reply at all is "garbage": the connection is useless, and the mail waits.
"""

import re

from msgspec import Struct

from waypost_queue.model import Reply

MAX_LINE = 4096  # octets; RFC 5321 4.5.3.1.5 allows 512, some send more
MAX_REPLY = 32 * 1024  # octets of all its lines
_MAX_TEXT = 1000  # characters kept

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?:\s+|\Z)")
_UNPRINTABLE = re.compile(r"[^\S ]+|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ud800-\udfff\ufeff]+")


class GarbageError(Exception):
    """What came is no SMTP reply."""


class Answer(Struct, frozen=True):
    """One whole reply: its code and the text of its lines."""

    code: int
    lines: tuple[str, ...]

    @property
    def good(self) -> bool:
        return 200 <= self.code < 300

    @property
    def summary(self) -> str:
        """As it came, on one line, for a dialogue."""
        return f"{self.code} {' / '.join(self.lines)}"


class ReplyParser:
    """Bytes in, whole replies out. Tolerates a bare LF as a line's end, as every client does."""

    __slots__ = ("_code", "_lines", "_size")

    def __init__(self) -> None:
        self._code = 0
        self._lines: list[str] = []
        self._size = 0

    def feed(self, buffer: bytearray) -> Answer | None:
        """The next whole reply, cut off the buffer; None if it is not there yet. Raises GarbageError."""
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end]).removesuffix(b"\r")
            del buffer[: end + 1]
            match = _LINE.match(line)
            if match is None:
                raise GarbageError(f"not a reply: {printable(line.decode('utf-8', 'replace'))[:80]!r}")
            code = int(match[1])
            self._size += len(line)
            if (self._lines and code != self._code) or len(line) > MAX_LINE or self._size > MAX_REPLY:
                raise GarbageError("a reply that is too long, or of several codes")
            self._code = code
            self._lines.append(printable((match[3] or b"").decode("utf-8", "replace")))
            if match[2] != b"-":
                answer = Answer(code, tuple(self._lines))
                self._lines = []
                self._size = 0
                return answer
        if len(buffer) > MAX_LINE:
            raise GarbageError("a line without end")
        return None


def printable(text: str) -> str:
    """One line without control or direction characters, so that no header, log or page can be forged with it."""
    if text.isascii() and text.isprintable():
        return text.strip()
    return _UNPRINTABLE.sub(" ", text).strip()


def to_reply(answer: Answer, *, mta: str, address: str, at: float) -> Reply:
    """The reply as it is stored. Multi-line ones repeat the enhanced code on each line (RFC 2034 4): kept once."""
    enhanced = ""
    texts = []
    for line in answer.lines:
        match = _ENHANCED.match(line)
        if match is not None and int(match[1]) == answer.code // 100:
            enhanced = enhanced or f"{match[1]}.{int(match[2])}.{int(match[3])}"
            texts.append(line[match.end() :])
        else:
            texts.append(line)
    text = " ".join(filter(None, texts))[:_MAX_TEXT]
    return Reply(code=answer.code, enhanced=enhanced, text=text, mta=mta, address=address, at=at)


def throttles(reply: Reply) -> bool:
    """Whether the site says that it gets too much from us: 421, or X.4.5, X.7.28, X.7.650 and their like."""
    if reply.code == 421 or reply.enhanced in ("4.4.5", "4.7.0", "4.7.28", "4.3.2"):
        return True
    return reply.enhanced.startswith("4.7.6")
