"""The content of a mail off the wire: DATA by its terminator, BDAT by its counts. No I/O: bytes in, segments out.

Only CRLF . CRLF ends DATA (RFC 5321 4.1.1.4). A bare CR, a bare LF or a NUL makes the content refused whole and the
connection closed: next hops disagree about where such content ends, which is what SMTP smuggling lives on. Content is
taken out of the connection's buffer in segments that end at a line's end, so that no octet is searched twice and the
buffer stays small whatever the size of the mail.
"""

import re
from enum import Enum

TEXT_LINE_LIMIT = 998  # octets without CRLF: RFC 5322 2.1.1, RFC 5321 4.5.3.1.6
SEGMENT = 128 * 1024  # octets in the buffer from which on what is complete is taken out of it

_END = b"\r\n.\r\n"
# What another server might take for the end of the data, as the last octets that a client sent before it waits: a dot
# on a line of its own where a line ends in less than CRLF. `\r\n.` and `\r\n.\r` are just a terminator on its way.
_FALSE_END = re.compile(rb"(?:(?:\A|[\r\n])\.\n|(?:(?<!\r)\n|\r)\.\r\n?)\Z")


class Fault(Enum):
    """Why content is refused; the first one found stands."""

    SIZE = "size"  # more than was allowed
    LINE = "line"  # a line of more than TEXT_LINE_LIMIT octets
    ENDINGS = "endings"  # a bare CR or LF
    NUL = "nul"
    ROOM = "room"  # this process holds as much mail as it may


def line_fault(content: bytes | bytearray) -> Fault | None:
    """What is wrong with whole lines: their ends, a NUL, or one that is too long. A last line needs no CRLF."""
    ends = content.count(b"\r\n")
    if content.count(b"\n") != ends or content.count(b"\r") != ends:
        return Fault.ENDINGS
    if b"\0" in content:
        return Fault.NUL
    # Hop from line end to line end in steps of at most a legal line, instead of looking at each line.
    position, last = 0, len(content)
    while last - position > TEXT_LINE_LIMIT:
        hop = content.rfind(b"\r\n", position, position + TEXT_LINE_LIMIT + 2)
        if hop < 0:
            return Fault.LINE
        position = hop + 2
    return None


class DataReader:
    """Reads one DATA phase, fed with the connection's buffer as often as it has grown.

    `limit` is in octets of the content as it will be kept (dots unstuffed). After a fault the rest is read and
    forgotten, since the client hears of it only after its final dot.
    """

    __slots__ = ("_line_start", "_searched", "_segments", "fault", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # octets kept
        self.fault: Fault | None = None
        self._segments: list[bytes] = []
        self._searched = 0  # octets at the front of the buffer that hold no terminator
        self._line_start = True  # the buffer's first octet begins a line

    def feed(self, buffer: bytearray) -> bool:
        """Takes what it can out of `buffer`. True when the terminator was found: all behind it is left there."""
        if self._line_start and buffer.startswith(b".\r\n"):
            del buffer[:3]
            return True
        end = buffer.find(_END, self._searched)
        if end >= 0:
            self._take(bytes(memoryview(buffer)[: end + 2]))
            del buffer[: end + 5]
            return True
        if len(buffer) >= SEGMENT or (self.fault is not None and len(buffer) > TEXT_LINE_LIMIT):
            self._shift(buffer)
        self._searched = max(0, len(buffer) - len(_END) + 1)
        return False

    def false_end(self, buffer: bytearray) -> bool:
        """The client seems to have ended its data with something that is no end, and now waits."""
        tail = bytes(buffer[-6:])
        if len(tail) == len(buffer) and not self._line_start:
            tail = b"x" + tail
        return _FALSE_END.search(tail) is not None

    def content(self) -> bytes:
        """All of it, once `feed` said True and there is no fault. It is handed over: the reader keeps nothing."""
        segments, self._segments = self._segments, []
        return segments[0] if len(segments) == 1 else b"".join(segments)

    def drop(self, fault: Fault) -> None:
        """Refuses the content; what was kept is forgotten."""
        if self.fault is None:
            self.fault = fault
        self._segments.clear()
        self.size = 0

    def _shift(self, buffer: bytearray) -> None:
        """Takes the complete lines at the front of a buffer without a terminator."""
        cut = buffer.rfind(b"\r\n") + 2
        if cut >= 2:
            self._take(bytes(memoryview(buffer)[:cut]))
            del buffer[:cut]
            self._line_start = True
        else:
            # One endless line. A last CR may be the first octet of the terminator.
            self.drop(Fault.LINE)
            del buffer[: len(buffer) - (1 if buffer.endswith(b"\r") else 0)]
            self._line_start = False

    def _take(self, lines: bytes) -> None:
        """Keeps whole lines, without their transparent dots (RFC 5321 4.5.2)."""
        if self.fault is not None:
            return
        if lines.startswith(b"."):
            lines = lines[1:]
        if b"\r\n." in lines:
            lines = lines.replace(b"\r\n.", b"\r\n")
        fault = line_fault(lines)
        if fault is None and self.size + len(lines) > self.limit:
            fault = Fault.SIZE
        if fault is not None:
            self.drop(fault)
            return
        self.size += len(lines)
        self._segments.append(lines)


class ChunkReader:
    """Reads the chunks of one BDAT transaction (RFC 3030 2): `chunk(size)`, then `feed` until it says True."""

    __slots__ = ("_content", "_left", "fault", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.fault: Fault | None = None
        self._content = bytearray()  # one piece, since a client may send its chunk an octet at a time
        self._left = 0

    def chunk(self, size: int) -> None:
        self._left = size
        if self.size + size > self.limit:
            self.drop(Fault.SIZE)

    def feed(self, buffer: bytearray) -> bool:
        """Takes the chunk's octets out of `buffer`; True when it is complete."""
        if self._left and buffer:
            part = bytes(memoryview(buffer)[: self._left])
            del buffer[: len(part)]
            self._left -= len(part)
            if self.fault is None:
                self.size += len(part)
                self._content += part
        return self._left == 0

    def drop(self, fault: Fault) -> None:
        """Refuses the content; what was kept is forgotten, what comes is read and forgotten."""
        if self.fault is None:
            self.fault = fault
        self._content.clear()
        self.size = 0

    def content(self) -> bytes | None:
        """All of it, handed over, once the last chunk is complete; None, and `fault` set, when its lines are not fit.

        BINARYMIME is not announced, so chunks too hold text in lines of CRLF (RFC 3030 3). They may cut a line
        anywhere, hence the look at the whole.
        """
        fault = line_fault(self._content)
        if fault is None:
            whole, self._content = bytes(self._content), bytearray()
            return whole
        self.drop(fault)
        return None
