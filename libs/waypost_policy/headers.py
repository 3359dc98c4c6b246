"""One pass over the header of a mail, as bytes: what acceptance and history need to know, and nothing re-serialised.

The header ends at the first empty line; only CRLF ends a line (bare CR and LF are refused before). Whatever any parser
might take for a From field counts as one: white space or control characters around the name, and fields after a line
that is none. What is not plainly one mailbox list is refused, not guessed at.
"""

from msgspec import Struct

from .addresses import Address
from .replies import Answer

MAX_HEADER = 100 * 1024  # octets, facts: huge headers


class Headers(Struct, frozen=True):
    """What the header says. Offsets are into the content that was scanned."""

    end: int  # offset after the last header line: the empty line, or the end; 0 = there is no header
    separated: bool  # an empty line, or nothing, follows at `end`; False: what is prepended needs an empty line itself
    from_: tuple[Address, ...]  # every mailbox of the From field; () = there is none
    received: int
    message_id: str  # with angle brackets, as written; "" = none
    subject: str  # unfolded, cut to 200 characters
    has_date: bool
    return_paths: tuple[tuple[int, int], ...]  # spans of Return-Path fields, to be left out


def scan(content: bytes, limit: int = MAX_HEADER) -> Headers | Answer:
    """The header of `content`, or the refusal it earns (too big, hostile bytes, several or unreadable From fields)."""
    raise NotImplementedError
