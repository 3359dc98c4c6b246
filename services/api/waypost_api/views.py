"""What the API answers, as pydantic models: the source of the OpenAPI document."""

from typing import Any

from pydantic import BaseModel, Field

from waypost_queue.events import Event
from waypost_queue.model import Reply, Ticket

_OPEN = ("queued", "deferred", "held")


class ReplyView(BaseModel):
    """What a next hop said."""

    code: int
    enhanced: str
    text: str
    mta: str = ""
    address: str = ""

    @classmethod
    def of(cls, reply: Reply | None) -> "ReplyView | None":
        if reply is None:
            return None
        return cls(code=reply.code, enhanced=reply.enhanced, text=reply.text, mta=reply.mta, address=reply.address)


class RecipientView(BaseModel):
    index: int
    address: str
    state: str = Field(description="queued, deferred, held, delivered, relayed, failed, expired or deleted")
    attempts: int
    next_attempt: float | None = Field(description="Unix seconds; null when none is planned")
    reply: ReplyView | None


class DialogueView(BaseModel):
    at: float = Field(description="seconds since the attempt began")
    who: str = Field(description="c = Waypost, s = the next hop, - = a remark")
    text: str


class EventView(BaseModel):
    """One thing that happened to a message."""

    id: str
    kind: str
    at: float
    destination: str = ""
    site: str = ""
    attempt: int = 0
    duration: float = 0.0
    tls: str = ""
    local_address: str = ""
    recipients: list[dict[str, Any]] = []
    dialogue: list[DialogueView] = []
    next_attempt: float | None = None
    related: str = ""
    by: str = ""
    text: str = ""
    worker: str = ""

    @classmethod
    def of(cls, event: Event) -> "EventView":
        return cls(
            id=event.id,
            kind=event.kind,
            at=event.at,
            destination=event.destination,
            site=event.site,
            attempt=event.attempt,
            duration=event.duration,
            tls=event.tls,
            local_address=event.local_address,
            recipients=[
                {
                    "index": one.index,
                    "address": one.address,
                    "result": one.result,
                    "reply": view.model_dump() if (view := ReplyView.of(one.reply)) is not None else None,
                }
                for one in event.recipients
            ],
            dialogue=[DialogueView(at=line.at, who=line.who, text=line.text) for line in event.dialogue],
            next_attempt=event.next_attempt or None,
            related=event.related,
            by=event.by,
            text=event.text,
            worker=event.worker,
        )


class TicketView(BaseModel):
    """What waits in the queue now, read from the queue itself."""

    mail: str
    domain: str
    state: str = Field(description="ready, deferred or held")
    sender: str
    recipients: list[str]
    attempts: int
    accepted: float
    due: float | None
    hold: dict[str, Any] | None
    last: ReplyView | None

    @classmethod
    def of(cls, state: str, ticket: Ticket) -> "TicketView":
        hold = ticket.hold
        return cls(
            mail=ticket.mail.id,
            domain=ticket.domain,
            state={"sched": "deferred", "hold": "held"}.get(state, state),
            sender=ticket.mail.sender,
            recipients=[recipient.address for recipient in ticket.mail.recipients],
            attempts=ticket.attempt,
            accepted=ticket.mail.accepted,
            due=ticket.due or None,
            hold=None
            if hold is None
            else {"cause": hold.cause, "reason": hold.reason, "since": hold.since, "by": hold.by, "scope": hold.scope},
            last=ReplyView.of(ticket.last),
        )


class MessageSummary(BaseModel):
    id: str
    accepted: float | None
    sender: str
    subject: str
    size: int
    state: str
    recipients: list[RecipientView]
    domain: str = ""
    tenant: str = ""
    kind: str = "mail"
    about: str = ""
    message_id: str = ""
    credential: str = ""
    source: str = ""

    @classmethod
    def of(cls, row: dict[str, Any]) -> "MessageSummary":
        """A row of the history, with its recipients' rows."""
        recipients = [
            RecipientView(
                index=one["idx"],
                address=one["address"],
                state=one["state"],
                attempts=one["attempts"],
                next_attempt=one["next_attempt"] or None if one["state"] in _OPEN else None,
                reply=ReplyView(code=one["code"], enhanced=one["enhanced"], text=one["text"], mta=one["mta"])
                if one["code"] or one["text"]
                else None,
            )
            for one in row["recipients"]
        ]
        return cls(
            id=row["id"],
            accepted=row.get("accepted"),
            sender=row.get("sender", ""),
            subject=row.get("subject", ""),
            size=row.get("size", 0),
            state=overall([one.state for one in recipients]),
            recipients=recipients,
            domain=row.get("domain", ""),
            tenant=row.get("tenant", ""),
            kind=row.get("kind", "mail"),
            about=row.get("about", ""),
            message_id=row.get("message_id", ""),
            credential=row.get("credential", ""),
            source=row.get("source", ""),
        )


class MessageView(MessageSummary):
    """A message: its recipients, what waits now, and all that happened."""

    waiting: list[TicketView]
    events: list[EventView]
    reports: list[str] = Field(description="ids of the DSNs about this message")


class DestinationView(BaseModel):
    """Counts of one destination domain."""

    domain: str
    waiting: int = Field(description="ready: due now, or in hand")
    deferred: int
    held: int
    oldest: float | None = Field(description="acceptance of the oldest that waits, Unix seconds")


class InboxSummary(BaseModel):
    id: str
    sender: str
    recipients: list[str]
    subject: str
    accepted: float
    delivered: float
    size: int


class InboxView(InboxSummary):
    headers: list[tuple[str, str]]
    text: str
    attachments: list[dict[str, Any]]


class ActionRequest(BaseModel):
    """What to do with what waits of a message."""

    action: str = Field(pattern="^(hold|release|retry|bounce|delete)$")
    domain: str = Field("", max_length=255, description='only this destination domain; "" = all')
    reason: str = Field("", max_length=500)


class ActionResult(BaseModel):
    acted: int = Field(description="groups acted upon at once")
    in_delivery: int = Field(description="groups in hand or not yet attempted: their owner was told, and heeds it")
    detail: str = ""


def overall(states: list[str]) -> str:
    """One word for a message: the state that still needs something, else the worst end."""
    for state in ("held", "deferred", "queued", "failed", "expired", "deleted", "relayed", "delivered"):
        if state in states:
            return state
    return "unknown"
