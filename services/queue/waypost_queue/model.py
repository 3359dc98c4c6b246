"""The data that every service speaks: mails, bundles, tickets, outcomes, reports.

Frozen structs, msgpack on the wire (`codec`). A reader ignores fields that it does not know and fills in defaults for
those that are missing, so that two versions run side by side; a change that an older reader must not ignore raises
`codec.FORMAT`. Times are Unix seconds (float), sizes are octets, domains are lower-case A-labels.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

INLINE_LIMIT = 128 * 1024  # octets; a larger body goes to the spool
CHUNK = 512 * 1024  # octets a spool chunk

Result = Literal["delivered", "relayed", "failed", "expired", "deleted", "deferred"]
"""delivered: at its end, or at a hop that takes over the DSN duty; relayed: at one without DSN (RFC 3461 5.2.2)."""

ReportKind = Literal["failure", "delay", "success", "relayed"]
HoldCause = Literal["person", "suspended", "dns", "poison", "format", "body"]
Verdict = Literal["", "retry", "release", "bounce", "delete"]


class Wire(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of all that is stored or sent."""


class Recipient(Wire, frozen=True):
    """One forward-path. Its index is its place in `Mail.recipients`, for ever."""

    address: str
    domain: str  # destination domain: lower-case A-label, or an address literal as written
    notify: tuple[str, ...] = ()  # RFC 3461 4.1: NEVER | SUCCESS FAILURE DELAY; () = not given
    orcpt: str = ""  # RFC 3461 4.2: "addr-type;address", xtext decoded


class Mail(Wire, frozen=True):
    """An accepted mail: its envelope, and its content if that is small."""

    id: str
    sender: str  # reverse-path; "" is <>
    recipients: tuple[Recipient, ...]
    size: int  # octets of the content
    accepted: float
    content: bytes | None = None  # None: in the spool, in `chunks` chunks
    chunks: int = 0
    domain: str = ""  # governing MailDomain
    tenant: str = ""  # its namespace
    credential: str = ""  # who submitted: user name, ServiceAccount "ns/name", or network
    source: str = ""  # peer address, or "dsn", "http"
    kind: Literal["mail", "dsn"] = "mail"
    about: str = ""  # of a DSN: the mail that it reports on
    eight_bit: bool = False  # BODY=8BITMIME
    smtputf8: bool = False
    ret: Literal["", "FULL", "HDRS"] = ""
    envid: str = ""  # xtext decoded
    require_tls: bool = False
    priority: int = 0  # MT-PRIORITY, -9..9
    not_before: float = 0.0  # FUTURERELEASE: no attempt before
    subject: str = ""  # Subject header as written, cut to 200 characters, for people
    message_id: str = ""
    traceparent: str = ""


class Bundle(Wire, frozen=True):
    """One INTAKE message: mails committed together.

    `marked` says "recover me": its first publish timed out, or it was healed or released; `origin_seq` and
    `origin_time` are then the sequence and stream time of the original (0 when there was none).
    """

    mails: tuple[Mail, ...]
    marked: bool = False
    origin_seq: int = 0
    origin_time: float = 0.0


class Reply(Wire, frozen=True):
    """What a next hop said, or what stood in for it."""

    code: int = 0  # SMTP reply code; 0 = none came
    enhanced: str = ""  # RFC 3463, e.g. "4.7.650"
    text: str = ""  # at most 1,000 characters
    mta: str = ""  # remote host name, "" = ours
    address: str = ""  # remote IP address
    at: float = 0.0


class UsageDelta(Wire, frozen=True):
    """Recipients granted in one window of a limit: `window` is the Unix time divided by the window's length."""

    key: str  # "minute:<scope>" or "day:<scope>"
    window: int
    recipients: int


class Usage(Wire, frozen=True):
    """What one process granted since it last told; or, of no process, what all did."""

    process: str
    deltas: tuple[UsageDelta, ...]


class Settled(Wire, frozen=True):
    """The end of one recipient: delivered, relayed, failed, expired or deleted. Never deferred."""

    index: int
    result: Result
    reply: Reply | None = None  # kept where a report needs it


class Report(Wire, frozen=True):
    """A DSN to be made: about whom, and of what kind. `id` is `ids.dsn_id`: of a final one of all its recipients, of a
    delay notice of the lowest alone, so that the group's later ones count as the same.
    """

    id: str
    kind: ReportKind
    recipients: tuple[Settled, ...]  # for "delay", with result "deferred"
    will_retry_until: float = 0.0


class Settlement(Wire, frozen=True):
    """What is final about one group, with each DSN now owed (never a delay notice)."""

    mail: str
    n: int
    outcomes: tuple[Settled, ...]
    owed: tuple[Report, ...] = ()


class SettleBatch(Wire, frozen=True):
    """One SETTLE message."""

    settlements: tuple[Settlement, ...]
    worker: str = ""


class Hold(Wire, frozen=True):
    """Why a ticket is held and since when."""

    cause: HoldCause
    reason: str
    since: float
    by: str = ""  # who, for "person"
    scope: str = ""  # for "suspended" and "dns": "domain:<d>", "policy:<name>" or "site:<s>"


class Ticket(Wire, frozen=True):
    """What waits: the rest of one group (mail, destination domain), without its body.

    `mail` is the envelope with `content=None`, unless SPOOL refused a small body. It names all recipients of the group
    only (`indexes` are their places in the original mail, `recipients[i]` belongs to `indexes[i]`).
    """

    mail: Mail  # recipients: those of `indexes`, in that order
    domain: str
    n: int
    indexes: tuple[int, ...]
    attempt: int = 0  # attempts made
    bundle: int = 0  # sequence of its bundle in INTAKE
    groups: tuple[tuple[str, int], ...] = ()  # (domain, n) of every group of the mail
    due: float = 0.0
    lane: str = ""
    pool: str = ""
    marked: bool = False  # "recover me", for the rest of its life
    origin_seq: int = 0
    origin_time: float = 0.0  # stream time from which SETTLE is scanned, 0 = its own
    delay_notified: bool = False
    hold: Hold | None = None
    held_total: float = 0.0  # seconds held in all by suspensions: the expiry clock stood still
    verdict: Verdict = ""
    verdict_by: str = ""
    verdict_reason: str = ""
    last: Reply | None = None
    alone: bool = False  # delivered for the third time: run alone
    dsn_owed: tuple[Report, ...] = ()  # INTAKE refused them: to be stored before anything else
    first_attempt: float = 0.0
    scanned: int = 0  # of a marked one: SETTLE is known up to this sequence, `indexes` and `dsn_owed` heed it
    returned: int = 0  # times in a row that it came back from a worker unsettled
    owed_to: dict[int, Recipient] = {}  # by index: those of `dsn_owed` that are no longer in `indexes`


class ControlMark(Wire, frozen=True):
    """KV `state`, key `mark.<mail>`: heeded by the owner before an attempt and before its next schedule."""

    mail: str
    action: Literal["hold", "bounce", "delete", "retry"]
    by: str
    at: float
    reason: str = ""
    domain: str = ""  # only the group of this destination domain; "" = the whole mail


class ControlRequest(Wire, frozen=True):
    """Request to the queue service on `ctl.<shard>`."""

    action: Literal["hold", "release", "retry", "bounce", "delete"]
    mail: str
    by: str
    domain: str = ""  # only the group of this destination domain; "" = all
    reason: str = ""


class ControlAnswer(Wire, frozen=True):
    """What became of a request: groups acted upon, groups whose owner was told, or why nothing could be done."""

    acted: int = 0
    in_delivery: int = 0
    error: str = ""  # "", "not-found", "held-bundle", "unavailable"
    detail: str = ""


def groups_of(mail: Mail) -> dict[str, tuple[int, ...]]:
    """Destination domain -> recipient indexes in ascending order; the first is the group's n."""
    recipients = mail.recipients
    if len(recipients) == 1:
        return {recipients[0].domain: (0,)}
    groups: dict[str, list[int]] = {}
    for index, recipient in enumerate(recipients):
        groups.setdefault(recipient.domain, []).append(index)
    return {domain: tuple(indexes) for domain, indexes in groups.items()}


def recipients_by_index(ticket: Ticket) -> Mapping[int, Recipient]:
    """Original recipient index -> recipient, for those that the ticket still names."""
    return dict(zip(ticket.indexes, ticket.mail.recipients, strict=True))
