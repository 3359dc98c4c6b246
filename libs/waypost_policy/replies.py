"""Every reply that Waypost gives as a server, in one table: code, enhanced status (RFC 3463, 5248), text, and when.

`docs/replies.md` is made from this table (`python -m waypost_policy.reference`) and a test compares the two. Each
refusal says what would be right. A `Reply` is the table's row; filled in (`reply(limit=...)`) it is an `Answer`, which
SMTP sends as a line and HTTP as a problem. Text from outside is made printable ASCII (RFC 5321 4.2; RFC 6531 3.7.4.2
keeps UTF-8 out of replies) and is cut, so that no reply passes 512 octets (RFC 5321 4.5.3.1.5).
"""

from typing import Any, Final

from msgspec import Struct

MAX_REPLY: Final = 512  # octets with CRLF, RFC 5321 4.5.3.1.5
_MAX_FACT: Final = 120  # characters of one filled-in value


class Answer(Struct, frozen=True):
    """A reply ready to be sent. `name` is its place in the table, and a bounded label for metrics."""

    name: str
    code: int
    enhanced: str
    text: str
    close: bool = False
    """The connection ends after it."""

    @property
    def line(self) -> bytes:
        """The reply line with CRLF."""
        words = f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"
        return words.encode("ascii", "backslashreplace")[: MAX_REPLY - 2] + b"\r\n"


Refusal = Answer
"""An Answer with a 4xx or 5xx code, as the decisions of `acceptance` return it."""


class Reply:
    """A row of the table. Calling it fills in the facts that its text names."""

    __slots__ = ("_answer", "close", "code", "enhanced", "name", "text", "when")

    def __init__(self, code: int, enhanced: str, text: str, when: str, *, close: bool = False) -> None:
        self.name = ""
        self.code, self.enhanced, self.text, self.when, self.close = code, enhanced, text, when, close
        self._answer: Answer | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.lower()

    def __call__(self, **facts: Any) -> Answer:
        """The answer with `facts` in the text. A fact is cut to 120 printable ASCII characters."""
        if not facts:
            if self._answer is None:
                self._answer = Answer(self.name, self.code, self.enhanced, self.text, self.close)
            return self._answer
        text = self.text.format_map({key: printable(str(value)) for key, value in facts.items()})
        return Answer(self.name, self.code, self.enhanced, text, self.close)


def printable(text: str, limit: int = _MAX_FACT) -> str:
    """`text` as printable ASCII of at most `limit` characters: what else it holds is escaped."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


class Replies:
    """The table. Rows are grouped as a session goes."""

    # Greeting and session
    BYE = Reply(221, "2.0.0", "Bye", "QUIT", close=True)
    OK = Reply(250, "2.0.0", "Ok", "NOOP, RSET")
    SENDER_OK = Reply(250, "2.1.0", "Sender ok", "MAIL")
    PRIORITY_CHANGED = Reply(
        250, "2.3.6", "Sender ok; the priority is {priority}", "MT-PRIORITY from who may not raise it (RFC 6710)"
    )
    RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok", "RCPT")
    QUEUED = Reply(250, "2.0.0", "Ok: queued as {id}", "The mail is on disk: the final reply to DATA or BDAT LAST")
    CHUNK_OK = Reply(250, "2.0.0", "Ok: {octets} octets received", "BDAT that is not the last")
    START_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>", "DATA")
    HELP = Reply(214, "2.0.0", "{help}", "HELP")
    VERIFY_UNKNOWN = Reply(252, "2.5.2", "Addresses are not verified here; send the mail to find out", "VRFY")
    SHUTTING_DOWN = Reply(
        421, "4.3.2", "This server is shutting down; connect again to reach another", "Drain", close=True
    )
    NOT_READY = Reply(
        421, "4.3.2", "This server is not ready yet; try again in a minute", "Before readiness", close=True
    )
    TIMED_OUT = Reply(
        421, "4.4.2", "Nothing arrived for {seconds} s; connect again", "No progress within the deadline", close=True
    )
    TOO_MANY_CONNECTIONS = Reply(
        421, "4.7.0", "Too many connections {scope}; close some or try again later", "Connection caps", close=True
    )
    TOO_MANY_ERRORS = Reply(
        421,
        "4.7.0",
        "Too many errors in this session; correct the client and connect again",
        "Error budget",
        close=True,
    )
    TOO_MANY_NOOPS = Reply(
        421, "4.7.0", "Too many commands without a mail; connect again when there is one", "No-op budget", close=True
    )
    SPOKE_TOO_EARLY = Reply(554, "5.5.1", "Wait for this server's greeting before sending", "Early talker", close=True)
    NOT_SMTP = Reply(
        554, "5.5.1", "This is an SMTP server; speak SMTP to it", "HTTP verbs, header lines, TLS bytes", close=True
    )
    PIPELINED_TOO_EARLY = Reply(
        554,
        "5.5.1",
        "Wait for the reply to {command} before sending more (RFC 2920)",
        "Unauthorised pipelining",
        close=True,
    )
    BARE_LINE_END = Reply(
        554,
        "5.6.0",
        "A bare CR, bare LF or NUL was sent; every line must end in CRLF and none may hold either",
        "Smuggling guard",
        close=True,
    )

    # Command syntax
    UNKNOWN_COMMAND = Reply(500, "5.5.2", "Unknown command; HELP names those that there are", "Unknown verb")
    LINE_TOO_LONG = Reply(
        500, "5.5.6", "The command line is too long; at most {limit} octets are read", "RFC 5321 4.5.3.1.4", close=True
    )
    TEXT_LINE_TOO_LONG = Reply(
        554,
        "5.6.0",
        "A line of the message is longer than 998 octets; encode it as quoted-printable or base64",
        "RFC 5321 4.5.3.1.6",
    )
    SYNTAX = Reply(501, "5.5.4", "Syntax: {syntax}", "A command with wrong arguments")
    NOT_IMPLEMENTED = Reply(502, "5.5.1", "{command} is not implemented", "EXPN, TURN and the like")
    SAY_EHLO_FIRST = Reply(503, "5.5.1", "Say EHLO first", "MAIL, AUTH or STARTTLS without a greeting")
    BAD_SEQUENCE = Reply(503, "5.5.1", "{need} first", "A command out of sequence")
    UNKNOWN_PARAMETER = Reply(
        555, "5.5.4", "Parameter {parameter} is unknown; EHLO lists the extensions", "RFC 5321 4.1.1.11"
    )
    BAD_PARAMETER = Reply(501, "5.5.4", "Parameter {parameter}: {right}", "A parameter with a wrong value")

    # Addresses
    BAD_SENDER_SYNTAX = Reply(501, "5.1.7", "{reason}; right would be MAIL FROM:<local@domain>", "Reverse-path syntax")
    BAD_RECIPIENT_SYNTAX = Reply(501, "5.1.3", "{reason}; right would be RCPT TO:<local@domain>", "Forward-path syntax")
    ROUTED_ADDRESS = Reply(
        553,
        "5.1.3",
        "{address} routes by % or !, which is refused; name the final address as <local@domain>",
        "Percent hack, bang path",
    )
    NO_POSTMASTER = Reply(
        550,
        "5.1.1",
        "This relay has no mailboxes of its own; write to postmaster@ the domain that you mean",
        "RCPT TO:<postmaster> without a domain",
    )
    NEEDS_SMTPUTF8 = Reply(
        553,
        "5.6.7",
        "{address} is not ASCII; it needs the parameter SMTPUTF8 in MAIL FROM (RFC 6531)",
        "UTF-8 address without SMTPUTF8",
    )

    # Authentication
    AUTHENTICATED = Reply(235, "2.7.0", "Authentication succeeded", "AUTH")
    AUTH_ABORTED = Reply(501, "5.7.0", "Authentication was cancelled by the client", "`*` in an AUTH exchange")
    AUTH_NEEDS_TLS = Reply(
        538, "5.7.11", "AUTH needs TLS: say STARTTLS first, or connect to the submissions port", "AUTH in the clear"
    )
    AUTH_FAILED = Reply(535, "5.7.8", "Authentication failed: wrong user name, password or token", "AUTH")
    AUTH_LOCKED = Reply(
        454,
        "4.7.0",
        "Too many failed logins; try again in {seconds} s",
        "Lock per address or user; the same for users that do not exist",
    )
    AUTH_UNAVAILABLE = Reply(
        454, "4.7.0", "Logins can't be checked at the moment; try again", "Verifier down or too busy"
    )
    AUTH_MALFORMED = Reply(501, "5.5.2", "AUTH {mechanism}: {right}", "A response that can't be decoded")
    AUTH_TOO_LONG = Reply(500, "5.5.6", "The AUTH line is longer than 12288 octets (RFC 4954)", "AUTH")
    AUTH_UNKNOWN_MECHANISM = Reply(504, "5.5.4", "AUTH mechanism unknown; EHLO lists those that there are", "AUTH")
    AUTH_REQUIRED = Reply(
        530,
        "5.7.0",
        "Authentication required: AUTH first, or have a MailDomain list this network under senders",
        "MAIL on a submission listener without an identity",
    )
    TLS_UNAVAILABLE = Reply(454, "4.7.0", "TLS is not available at the moment", "STARTTLS without a certificate")
    READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS", "STARTTLS")

    # Who may send, and to whom
    RELAY_DENIED = Reply(
        550,
        "5.7.1",
        "Relaying to {address} denied: log in, or have a MailDomain list this network under senders",
        "RCPT by nobody in particular: never an open relay",
    )
    SENDER_NOT_ALLOWED = Reply(
        553,
        "5.7.1",
        "{who} may not send as {address} (MAIL FROM); it may use {allowed}",
        "MAIL FROM outside the sender's addresses",
    )
    FROM_NOT_ALLOWED = Reply(
        553,
        "5.7.1",
        "{who} may not send as {address} (header From; MAIL FROM is {sender}); it may use {allowed}",
        "Header From outside the sender's addresses",
    )
    NETWORK_HIDDEN = Reply(
        450,
        "4.7.1",
        "This network's trust is off: {reason}",
        "Network sender while peers' addresses are not real",
    )

    # Content
    TOO_BIG = Reply(552, "5.3.4", "The message is larger than {limit} octets, the limit {of}", "SIZE, or while reading")
    HEADER_TOO_BIG = Reply(552, "5.3.4", "The header is larger than {limit} octets; shorten it", "Header limit")
    NO_FROM = Reply(
        554,
        "5.6.0",
        "MAIL FROM is <> and there is no From header that says who sends; add one, as From: Name <local@domain>",
        "A null reverse-path and no header From",
    )
    MANY_FROM = Reply(
        554, "5.6.0", "There are {count} From headers; RFC 5322 3.6 allows one", "More than one header From"
    )
    BAD_FROM = Reply(
        554,
        "5.6.0",
        "The From header can't be read: {reason}; right would be From: Name <local@domain>",
        "Header From that is no mailbox list",
    )
    FROM_NEEDS_SMTPUTF8 = Reply(
        550,
        "5.6.7",
        "The From header names {address}, which is not ASCII; it needs SMTPUTF8 in MAIL FROM (RFC 6531)",
        "UTF-8 address in the header From without SMTPUTF8",
    )
    HOSTILE_HEADER = Reply(
        554, "5.6.0", "The header holds {what}, which is not allowed there; remove it", "NUL, VT or FF in the header"
    )
    LOOP = Reply(
        554, "5.4.6", "The mail has {count} Received headers: it loops. Look at where they repeat", "Loop detection"
    )

    # Limits
    TOO_MANY_RECIPIENTS = Reply(
        452,
        "4.5.3",
        "{limit} recipients a mail is the limit {of}; send the rest in another mail",
        "Recipients per message",
    )
    RATE_EXCEEDED = Reply(
        450,
        "4.7.1",
        "{who} has reached {limit} recipients a {window}, the limit {of}; try again in {seconds} s",
        "Recipients per minute or day",
    )
    NO_RECIPIENTS = Reply(554, "5.5.1", "No recipient was accepted; name one with RCPT", "DATA without recipients")

    # Storage
    STORE_FULL = Reply(452, "4.3.1", "The queue is full ({reason}); try again later", "INTAKE or SPOOL at 80 %")
    STORE_UNAVAILABLE = Reply(
        451, "4.3.0", "The mail could not be stored; try again", "No quorum, no leader, no answer"
    )
    INTERNAL = Reply(451, "4.3.0", "An internal fault; try again", "Any unexpected exception")


def table() -> list[Reply]:
    """Every row, in the table's order."""
    return [value for value in vars(Replies).values() if isinstance(value, Reply)]
