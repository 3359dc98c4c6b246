"""EVENTS: what is told to the world about each mail. History, metrics and webhooks are projections of it.

Never needed for correctness: an event may be lost, and may come twice (`id` tells).
"""

from typing import Literal

from .model import Reply, Wire

EventKind = Literal[
    "accepted",  # one a mail
    "attempt",  # one an attempt of a group: dialogue, reply per recipient
    "delivered",
    "relayed",
    "deferred",
    "failed",
    "expired",
    "deleted",  # one a group and result
    "held",
    "released",
    "action",  # a person's or a policy's doing
    "dsn",  # a DSN was accepted; `related` is its id
    "state",  # configuration or site changes, no mail
]


class DialogueLine(Wire, frozen=True):
    """One line of an SMTP dialogue; AUTH exchanges and content are never in it."""

    at: float  # seconds since the attempt began
    who: Literal["c", "s", "-"]  # client (us), server, remark (connected, TLS established)
    text: str  # at most 500 characters


class RecipientResult(Wire, frozen=True):
    index: int
    address: str
    result: str  # model.Result
    reply: Reply | None = None


class Event(Wire, frozen=True):
    """`id` is unique: the projection ignores one that it has."""

    id: str
    kind: EventKind
    at: float
    mail: str = ""
    tenant: str = ""
    domain: str = ""  # governing MailDomain
    destination: str = ""  # destination domain
    site: str = ""
    pool: str = ""
    sender: str = ""
    recipients: tuple[RecipientResult, ...] = ()
    addresses: tuple[str, ...] = ()  # of "accepted": recipients in order
    size: int = 0
    subject: str = ""
    message_id: str = ""
    credential: str = ""
    source: str = ""
    mail_kind: str = ""  # "mail" | "dsn"
    about: str = ""
    attempt: int = 0
    duration: float = 0.0
    tls: str = ""  # "TLSv1.3 TLS_AES_256_GCM_SHA384, verified" or ""
    local_address: str = ""
    dialogue: tuple[DialogueLine, ...] = ()
    next_attempt: float = 0.0
    related: str = ""
    by: str = ""
    text: str = ""
    worker: str = ""


class EventBatch(Wire, frozen=True):
    """One EVENTS message: at most 100 events or 256 KiB."""

    events: tuple[Event, ...]


class InboxMail(Wire, frozen=True):
    """A mail that was kept inside instead of leaving; a large one is several INBOX messages, `part` of `parts`."""

    mail: str
    sender: str
    recipients: tuple[str, ...]
    accepted: float
    delivered: float
    content: bytes
    subject: str = ""
    tenant: str = ""
    domain: str = ""
    lowest: int = 0  # lowest recipient index of the group
    part: int = 0
    parts: int = 1
