"""The envelope as commands: MAIL and RCPT with every parameter that the next hop offers to heed. Pure.

What it does not offer is left out where that loses nothing, and is a refusal where the mail could not go on as it is:
too large (RFC 1870 6.1), 8-bit content without 8BITMIME (RFC 6152 3), addresses or header that need SMTPUTF8 (RFC 6531
3.2). Local addresses under an internationalised domain go on in A-labels instead.
"""

import re
from collections.abc import Mapping, Sequence

import idna
from msgspec import Struct

from waypost_queue.model import Mail, Recipient, Reply

from .transport import RecipientOutcome

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
_NOT_XCHAR = re.compile(rb"[^!-*,-<>-~]")  # RFC 3461 4: all but "+", "=", and what does not print
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")  # RFC 6533 3: also without "\"


class Envelope(Struct, frozen=True):
    """Command lines with their CRLF; `refused`: who can't be sent to through this next hop."""

    mail: bytes
    rcpts: dict[int, bytes]  # by recipient index
    refused: dict[int, RecipientOutcome]


def envelope(
    mail: Mail,
    recipients: Mapping[int, Recipient],
    indexes: Sequence[int],
    content: bytes,
    offered: Mapping[str, str],
    host: str,
) -> Envelope:
    """The commands for a transaction with a `host` that offers these extensions (lower case -> parameters)."""
    utf8 = "smtputf8" in offered
    reply = _refusal(mail, content, offered, host)
    sender = mail.sender if utf8 or mail.sender.isascii() else ascii_form(mail.sender)
    if reply is None and (sender is None or _CONTROL.search(sender)):
        reply = _address_refused(mail.sender, host)
    if reply is not None or sender is None:
        return Envelope(b"", {}, {index: RecipientOutcome("failed", reply or Reply()) for index in indexes})
    dsn = "dsn" in offered
    rcpts: dict[int, bytes] = {}
    refused: dict[int, RecipientOutcome] = {}
    need_utf8 = mail.smtputf8 or not sender.isascii()
    for index in indexes:
        recipient = recipients[index]
        address = recipient.address if utf8 or recipient.address.isascii() else ascii_form(recipient.address)
        if address is None or _CONTROL.search(address):
            refused[index] = RecipientOutcome("failed", _address_refused(recipient.address, host))
            continue
        need_utf8 = need_utf8 or not address.isascii()
        parameters = _rcpt_parameters(recipient) if dsn else ""
        rcpts[index] = f"RCPT TO:<{address}>{parameters}\r\n".encode()
    line = f"MAIL FROM:<{sender}>"
    if "size" in offered:
        line += f" SIZE={len(content)}"
    if "8bitmime" in offered and (mail.eight_bit or not content.isascii()):
        line += " BODY=8BITMIME"
    if utf8 and need_utf8:
        line += " SMTPUTF8"
    if dsn and mail.ret:
        line += f" RET={mail.ret}"
    if dsn and mail.envid:
        line += f" ENVID={xtext(mail.envid)}"
    return Envelope(line.encode() + b"\r\n", rcpts, refused)


def _refusal(mail: Mail, content: bytes, offered: Mapping[str, str], host: str) -> Reply | None:
    limit = offered.get("size", "").strip()
    if limit.isdecimal() and 0 < int(limit) < len(content):
        return _refused(552, "5.3.4", f"the mail has {len(content)} octets, {host} takes {int(limit)} at most")
    if content.isascii():
        return None
    if "8bitmime" not in offered:
        return _refused(554, "5.6.3", f"the content has 8-bit characters, and {host} does not take them (8BITMIME)")
    if mail.smtputf8 and "smtputf8" not in offered and not _header(content).isascii():
        return _refused(554, "5.6.9", f"the header has UTF-8 characters, and {host} does not take them (SMTPUTF8)")
    return None


def _header(content: bytes) -> bytes:
    end = content.find(b"\r\n\r\n")
    return content if end < 0 else content[:end]


def _address_refused(address: str, host: str) -> Reply:
    if _CONTROL.search(address):
        return _refused(553, "5.1.3", "the address holds control characters")
    return _refused(553, "5.6.7", f"{address} is not an ASCII address, and {host} takes no other (SMTPUTF8)")


def _refused(code: int, enhanced: str, text: str) -> Reply:
    return Reply(code=code, enhanced=enhanced, text=text)


def ascii_form(address: str) -> str | None:
    """The address with its domain in A-labels; None if the local part is not ASCII (it has no other form)."""
    local, at, domain = address.rpartition("@")
    if not at or not local.isascii():
        return None
    try:
        return f"{local}@{idna.encode(domain, uts46=True).decode()}"
    except idna.IDNAError:
        return None


def _rcpt_parameters(recipient: Recipient) -> str:
    """RFC 3461 4.1, 4.2."""
    parameters = ""
    if recipient.notify:
        parameters += f" NOTIFY={','.join(recipient.notify)}"
    if recipient.orcpt:
        kind, _, address = recipient.orcpt.partition(";")
        encoded = _utf8_address(address) if kind.lower() == "utf-8" else xtext(address)
        parameters += f" ORCPT={kind};{encoded}"
    return parameters


def xtext(text: str) -> str:
    """RFC 3461 4."""
    return _NOT_XCHAR.sub(lambda match: b"+%02X" % match[0][0], text.encode()).decode()


def _utf8_address(address: str) -> str:
    """RFC 6533 3, utf-8-addr-xtext: valid with and without SMTPUTF8."""
    return _NOT_QCHAR.sub(lambda match: f"\\x{{{ord(match[0]):X}}}", address)


def dot_stuffed(content: bytes) -> bytes:
    """RFC 5321 4.5.2: a dot more before each that begins a line; CRLF at the end. Nothing else is touched.

    A line begins after CRLF alone: what comes after a bare LF is the middle of a line, and stays as it was signed.
    """
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n..")
    if content.startswith(b"."):
        content = b"." + content
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"
