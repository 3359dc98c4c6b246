"""Delivery status notifications: a report becomes a mail that a person understands and a program can read. Pure.

multipart/report (RFC 6522) of three parts: the words (dsn_text.py), message/delivery-status (RFC 3464) with what
RFC 3461 6.3 asks for, and the returned header or message. For a mail that came with SMTPUTF8 the parts are those of
RFC 6533 (message/global-delivery-status, message/global-headers, message/global).

Whatever a client or a remote host wrote is made harmless before it stands in a header or a field: no octet of theirs
ends a line. The same report gives the same Message-ID and boundary, so that one made again by recovery is equivalent.
"""

import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.header import Header
from email.utils import format_datetime

from msgspec import Struct

from waypost_policy.addresses import AddressError, parse_address
from waypost_queue.model import Mail, Recipient, Reply, Report, ReportKind, Settled

from . import dsn_text
from .dsn_text import one_line

RETURN_LIMIT = 64 * 1024  # octets of the original that come back: a DSN is small, whatever it is about
MAX_LINE = 998  # octets without CRLF, RFC 5322 2.1.1
_FOLD = 76
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z", re.ASCII)  # RFC 3463 2
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,240}@[!-;=?-~]{1,240}>\Z", re.ASCII)
_NOT_TEXT = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+"
)  # what ends a line somewhere, or is no character
_ACTION: Mapping[ReportKind, str] = {
    "failure": "failed",
    "delay": "delayed",
    "success": "delivered",
    "relayed": "relayed",
}
_CRLF = "\r\n"


class Context(Struct, frozen=True, kw_only=True):
    """Who reports, and when (the stream's clock)."""

    hostname: str
    now: float


def build(mail: Mail, recipients: Mapping[int, Recipient], report: Report, content: bytes, context: Context) -> Mail:
    """The DSN for `report` about `mail`, whose recipients (by original index) and content are given.

    Its id is the report's; it goes from `<>` to the sender of `mail`, which must not be `<>` itself.
    """
    if not mail.sender:
        raise ValueError(f"{mail.id}: nobody is told about a mail from <>")
    utf8 = mail.smtputf8 or not mail.sender.isascii()
    parts = _Parts(mail, recipients, report, context, utf8=utf8)
    body = parts.assemble(content)
    to = mail.sender
    return Mail(
        id=report.id,
        sender="",
        # RFC 3461 6.1: nobody is told about what becomes of a DSN.
        recipients=(Recipient(address=to, domain=_domain_of(to), notify=("NEVER",)),),
        size=len(body),
        accepted=context.now,
        content=body,
        domain=mail.domain,
        tenant=mail.tenant,
        source="dsn",
        kind="dsn",
        about=mail.id,
        eight_bit=not body.isascii(),
        # To an ASCII address no SMTPUTF8 is needed: the UTF-8 inside is then encoded (RFC 6533 allows it), and the DSN
        # passes hosts that do not know the extension.
        smtputf8=not to.isascii(),
        require_tls=mail.require_tls,
        subject=parts.subject[:200],
        message_id=parts.message_id,
        traceparent=mail.traceparent,
    )


def _domain_of(address: str) -> str:
    try:
        return parse_address(address).domain
    except AddressError:  # accepted by an older version with other rules: MX look-up of it fails, and that is the end
        return address.rpartition("@")[2].lower()


class _Parts:
    """One DSN in the making."""

    def __init__(
        self, mail: Mail, recipients: Mapping[int, Recipient], report: Report, context: Context, *, utf8: bool
    ) -> None:
        self._mail = mail
        self._recipients = recipients
        self._report = report
        self._context = context
        self._utf8 = utf8
        self._eight_bit = not mail.sender.isascii()  # the DSN is itself sent with SMTPUTF8
        first = recipients[report.recipients[0].index].address
        self.subject = one_line(dsn_text.subject(report.kind, first, len(report.recipients)))
        self.message_id = f"<{report.id}@{context.hostname}>"

    def assemble(self, content: bytes) -> bytes:
        boundary = f"=_waypost_{self._report.id}"  # "=_" can't stand in quoted-printable or base64 (RFC 2045 6.7)
        words = dsn_text.write(self._mail, self._recipients, self._report, self._context.hostname, self._context.now)
        status_type = "global-delivery-status" if self._utf8 else "delivery-status"
        status = self._status().encode("utf-8" if self._utf8 else "ascii", "replace")
        pieces = [
            self._part("text/plain; charset=utf-8", "Notification", words.replace("\n", _CRLF).encode(), text=True),
            self._part(f"message/{status_type}", "Delivery report", status, text=False),
            self._returned(content),
        ]
        head = _CRLF.join(
            [
                *self._header(),
                # RFC 2045 6.4: what holds 8-bit parts is itself 8-bit.
                f"Content-Transfer-Encoding: {'7bit' if all(map(bytes.isascii, pieces)) else '8bit'}",
                # RFC 6522 3: report-type is the subtype of the second part.
                f'Content-Type: multipart/report; report-type={status_type};{_CRLF}\tboundary="{boundary}"',
            ]
        )
        separator = f"\r\n--{boundary}\r\n".encode()
        opening = f"{head}\r\n\r\nThis is a delivery report in MIME format (RFC 3464).".encode()
        return opening + b"".join(separator + piece for piece in pieces) + f"\r\n--{boundary}--\r\n".encode()

    def _header(self) -> list[str]:
        host, date = self._context.hostname, _date(self._context.now)
        lines = [
            f"Received: by {host} (Waypost) id {self._report.id};{_CRLF}\t{date}",
            f"From: Mail Delivery System <MAILER-DAEMON@{host}>",
            _fold("To", f"<{one_line(self._mail.sender)}>"),
            f"Subject: {self._subject()}",
            f"Date: {date}",
            f"Message-ID: {self.message_id}",
            "MIME-Version: 1.0",
            "Auto-Submitted: auto-replied",  # RFC 3834 5: or somebody's vacation answers it
        ]
        if _MESSAGE_ID.match(self._mail.message_id):
            lines += [f"In-Reply-To: {self._mail.message_id}", f"References: {self._mail.message_id}"]
        return lines

    def _subject(self) -> str:
        if self.subject.isascii() or self._eight_bit:
            return self.subject
        return Header(self.subject, "utf-8", header_name="Subject").encode(linesep=_CRLF)

    def _part(self, kind: str, description: str, body: bytes, *, text: bool) -> bytes:
        """A part; what is not ASCII is 8bit in a DSN that needs SMTPUTF8 anyway, else quoted-printable."""
        encoding = "7bit"
        if not body.isascii() or (text and _has_long_line(body)):
            encoding = "8bit" if self._eight_bit and not _has_long_line(body) else "quoted-printable"
        if encoding == "quoted-printable":
            body = quoted_printable(body)
        head = f"Content-Type: {kind}\r\nContent-Description: {description}\r\nContent-Transfer-Encoding: {encoding}"
        return head.encode() + b"\r\n\r\n" + body

    # -- the machine's part

    def _status(self) -> str:
        mail, date = self._mail, _date
        lines = []
        if mail.envid:  # RFC 3461 6.3 (b): as the client gave it, xtext decoded
            lines.append(self._field("Original-Envelope-Id", mail.envid))
        lines += [
            self._field("Reporting-MTA", f"dns; {self._context.hostname}"),
            self._field("Arrival-Date", date(mail.accepted)),
        ]
        blocks = [_CRLF.join(lines)]
        blocks += [_CRLF.join(self._recipient(one)) for one in self._report.recipients]
        return (_CRLF * 2).join(blocks) + _CRLF

    def _recipient(self, settled: Settled) -> list[str]:
        """The per-recipient fields of RFC 3464 2.3, in its order."""
        recipient, reply, kind = self._recipients[settled.index], settled.reply or Reply(), self._report.kind
        lines = []
        if recipient.orcpt:  # RFC 3461 6.3 (c): MUST be the ORCPT that was given
            lines.append(self._field("Original-Recipient", self._typed(recipient.orcpt)))
        lines += [
            self._field("Final-Recipient", self._address(recipient.address)),
            self._field("Action", _ACTION[kind]),
            self._field("Status", status_code(kind, settled)),
        ]
        spoke = bool(reply.code and reply.mta)
        if spoke:
            lines.append(self._field("Remote-MTA", f"dns; {reply.mta}"))
        said = reply_text(reply)
        if said:  # "smtp" is for what a remote host really said (RFC 3464 2.3.6); ours has a type of its own
            lines.append(self._field("Diagnostic-Code", f"{'smtp' if spoke else 'x-waypost'}; {said}"))
        if reply.at:
            lines.append(self._field("Last-Attempt-Date", _date(reply.at)))
        lines.append(self._field("Final-Log-ID", self._mail.id))
        # RFC 3464 2.3.9: only with "delayed"; a moment that has passed would be a lie.
        if kind == "delay" and self._report.will_retry_until > self._context.now:
            lines.append(self._field("Will-Retry-Until", _date(self._report.will_retry_until)))
        return lines

    def _field(self, name: str, value: str) -> str:
        text = one_line(value)
        return _fold(name, text if self._utf8 else unitext(text))

    def _address(self, address: str) -> str:
        return f"{'rfc822' if address.isascii() else 'utf-8'}; {address}"

    def _typed(self, orcpt: str) -> str:
        """`type;address` as RFC 3464 writes it. A non-ASCII address can only be of the type utf-8 (RFC 6533 3)."""
        kind, semicolon, address = orcpt.partition(";")
        if not semicolon:
            return self._address(orcpt)
        return f"{kind}; {address}"

    # -- what comes back

    def _returned(self, content: bytes) -> bytes:
        """The message where RET=FULL asks for it, a failure is told (RFC 3461 4.3) and it is small; else its header.

        message/rfc822 can't be encoded (RFC 2046 5.2.1), and nobody hears of a DSN that a hop without 8BITMIME refuses:
        of an 8-bit message the header comes back, as 7bit.
        """
        full = (
            self._mail.ret == "FULL"
            and self._report.kind == "failure"
            and len(content) <= RETURN_LIMIT
            and not _has_long_line(content)
            and not _has_bare(content)
        )
        if full and content.isascii():
            kind = "message/global" if self._utf8 else "message/rfc822"
            return _head(kind, "Undelivered message", "7bit") + content
        if full and self._utf8:
            return self._part("message/global", "Undelivered message", content, text=False)
        header = header_of(content)
        if self._utf8:
            return self._part("message/global-headers", "Header of the message", header, text=False)
        if header.isascii() and not _has_long_line(header) and not _has_bare(header):
            return _head("text/rfc822-headers", "Header of the message", "7bit") + header
        # RFC 6522 4: a header that is no legal 7bit may be quoted-printable.
        body = quoted_printable(header)
        return _head("text/rfc822-headers", "Header of the message", "quoted-printable") + body


def _head(kind: str, description: str, encoding: str) -> bytes:
    return (
        f"Content-Type: {kind}\r\nContent-Description: {description}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    ).encode()


def header_of(content: bytes) -> bytes:
    """The header of a message, cut to whole lines within RETURN_LIMIT."""
    end = content.find(b"\r\n\r\n")
    if content.startswith(b"\r\n"):
        return b""
    header = content[: end + 2] if end >= 0 else content
    if len(header) > RETURN_LIMIT:
        header = header[: header.rfind(b"\r\n", 0, RETURN_LIMIT) + 2]
    return header


def status_code(kind: ReportKind, settled: Settled) -> str:
    """The Status field: the remote's enhanced code if it gave one that fits, else what its reply says by its class.

    A delay is of class 4, a failure of 4 or 5, everything else of 2 (RFC 3464 2.3.4). What expired keeps the code of
    the problem, as RFC 3463 3.5 asks; X.4.7 (delivery time expired) stands in where there is none.
    """
    if kind in ("success", "relayed"):
        enhanced = settled.reply.enhanced if settled.reply is not None else ""
        return enhanced if _ENHANCED.match(enhanced) and enhanced[0] == "2" else "2.0.0"
    reply = settled.reply or Reply()
    enhanced = reply.enhanced if _ENHANCED.match(reply.enhanced) and reply.enhanced[0] != "2" else ""
    if kind == "delay":
        return "4" + enhanced[1:] if enhanced else "4.0.0"
    if settled.result == "expired":
        return enhanced or ("4.4.7" if reply.code < 500 else "5.4.7")
    if enhanced and not (reply.code >= 500 and enhanced[0] == "4"):
        return enhanced
    return "5" + enhanced[1:] if enhanced else "5.0.0"


def reply_text(reply: Reply) -> str:
    """A reply as one line: code, enhanced code, text."""
    parts = (str(reply.code) if reply.code else "", reply.enhanced, reply.text)
    return " ".join(part for part in parts if part)


def unitext(text: str) -> str:
    r"""ASCII, with `\x{HEX}` for every other character: RFC 6533 3, utf-8-addr-unitext."""
    return text if text.isascii() else "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in text)


def quoted_printable(body: bytes) -> bytes:
    """RFC 2045 6.7, line by line: CRLF stays a line end, a bare CR or LF becomes `=0D` or `=0A`."""
    lines = (binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") for line in body.split(b"\r\n"))
    return b"\r\n".join(lines)


def _fold(name: str, value: str) -> str:
    """A header field, folded at spaces; a word that no line can hold is cut into several (RFC 5322 2.2.3)."""
    lines, line = [], f"{name}:"
    for word in value.split():
        for start in range(0, len(word), 240):  # 240 characters are at most 960 octets
            piece = word[start : start + 240]
            if len(line) + 1 + len(piece) > _FOLD and line.strip() not in ("", f"{name}:"):
                lines.append(line)
                line = ""
            line += " " + piece
    lines.append(line)
    return _CRLF.join(lines)


def _has_long_line(body: bytes) -> bool:
    return max(map(len, body.split(b"\r\n"))) > MAX_LINE


def _has_bare(body: bytes) -> bool:
    """Whether a CR or LF stands alone, or a NUL is there."""
    pairs = body.count(b"\r\n")
    return body.count(b"\r") != pairs or body.count(b"\n") != pairs or b"\0" in body


def _date(at: float) -> str:
    """RFC 5322 3.3, in UTC."""
    return format_datetime(datetime.fromtimestamp(int(at), UTC))
