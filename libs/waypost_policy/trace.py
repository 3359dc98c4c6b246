"""Header lines that Waypost prepends, and the one that it takes away: Received, Message-ID, Date; Return-Path.

Message-ID and Date are added on submission only, and only if absent (RFC 6409 8.2, 8.3). Return-Path is the last hop's
to write (RFC 5321 4.4) and is never forwarded. Content is bytes; nothing else of it changes.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from .headers import Headers

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9.:_\[\]-]")
_MAX_NAME: Final = 255  # octets, RFC 5321 4.5.3.1.2


def received_start(
    *, helo: str, peer: str, by: str, esmtp: bool, tls: str = "", authenticated: bool = False, smtputf8: bool = False
) -> bytes:
    """The part of Received that all mails of a session share; `received` completes it.

    `peer` is an IP address, `by` our host name, `tls` "TLSv1.3 TLS_AES_256_GCM_SHA384" (protocol, cipher) or "".
    """
    literal = f"IPv6:{peer}" if ":" in peer else peer
    version, _, cipher = tls.partition(" ")
    secured = f"\r\n\t(version={version} cipher={cipher})" if tls else ""
    protocol = transmission(esmtp=esmtp, tls=bool(tls), authenticated=authenticated, smtputf8=smtputf8)
    text = f"Received: from {_name(helo)} ([{literal}]){secured}\r\n\tby {by} (Waypost) with {protocol} id "
    return text.encode("ascii", "replace")


def transmission(*, esmtp: bool, tls: bool, authenticated: bool, smtputf8: bool) -> str:
    """The `with` keyword: RFC 3848, and RFC 6531 4.3 for SMTPUTF8."""
    if not esmtp:
        return "SMTP"
    return ("UTF8SMTP" if smtputf8 else "ESMTP") + ("S" if tls else "") + ("A" if authenticated else "")


def received(start: bytes, mail_id: str, now: float, recipient: str = "") -> bytes:
    """The Received field (RFC 5321 4.4). `recipient` only if the mail has exactly one, so that none is disclosed."""
    shown = f"\r\n\tfor <{recipient}>" if recipient and recipient.isascii() and recipient.isprintable() else ""
    return b"%b%b%b;\r\n\t%b\r\n" % (start, mail_id.encode("ascii"), shown.encode("ascii"), date(now).encode("ascii"))


def assemble(
    content: bytes, headers: Headers, trace: bytes, *, mail_id: str, host: str, now: float, submission: bool
) -> bytes:
    """What is stored: `trace`; on submission a Message-ID and Date if there is none; the content as it came."""
    parts = [trace]
    if submission:
        if not headers.has_message_id:
            parts.append(b"Message-ID: %b\r\n" % message_id(mail_id, host).encode("ascii"))
        if not headers.has_date:
            parts.append(b"Date: %b\r\n" % date(now).encode("ascii"))
    if headers.needs_separator:
        parts.append(b"\r\n")
    position = 0
    for start, stop in headers.return_paths:
        parts.append(content[position:start])
        position = stop
    parts.append(content[position:] if position else content)
    return b"".join(parts)


def message_id(mail_id: str, host: str) -> str:
    """The Message-ID that a mail without one is given."""
    return f"<{mail_id}@{host}>"


def date(now: float) -> str:
    """RFC 5322 3.3 date-time of a Unix time, in UTC."""
    return _date(int(now))


@lru_cache(maxsize=8)
def _date(second: int) -> str:
    t = datetime.fromtimestamp(second, UTC)
    clock = f"{t.hour:02d}:{t.minute:02d}:{t.second:02d}"
    return f"{_DAYS[t.weekday()]}, {t.day:02d} {_MONTHS[t.month - 1]} {t.year} {clock} +0000"


def _name(helo: str) -> str:
    """A HELO argument that can break no header: what no name or literal has becomes `?`."""
    return _NOT_IN_A_NAME.sub("?", helo[:_MAX_NAME]) or "unknown"
