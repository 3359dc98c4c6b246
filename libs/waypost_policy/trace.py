"""Header lines that Waypost prepends, and the one it takes away: Received, Message-ID, Date; Return-Path.

Only on submission are Message-ID and Date added (RFC 6409 8.2, 8.3), only if absent. Return-Path is the last hop's to
write (RFC 5321 4.4) and is never forwarded. Content is bytes; nothing of the rest changes.
"""

from .headers import Headers


def received_start(
    *, helo: str, peer: str, by: str, esmtp: bool, tls: str = "", authenticated: bool = False, smtputf8: bool = False
) -> bytes:
    """The part of Received that is the same for all mails of a session; `received` completes it.

    `tls` is "TLSv1.3 TLS_AES_256_GCM_SHA384" or "". `with` is RFC 3848's keyword (RFC 6531 4.3 for SMTPUTF8).
    """
    raise NotImplementedError


def received(start: bytes, mail_id: str, now: float, recipient: str = "") -> bytes:
    """The Received field (RFC 5321 4.4). `recipient` only if the mail has exactly one, so that none is disclosed."""
    raise NotImplementedError


def assemble(
    content: bytes, headers: Headers, trace: bytes, *, mail_id: str, host: str, now: float, submission: bool
) -> bytes:
    """The content to store: `trace`, then Message-ID and Date if `submission` lacks them, then the content as it came."""
    raise NotImplementedError


def date(now: float) -> str:
    """RFC 5322 3.3 date-time in UTC."""
    raise NotImplementedError
