"""Work as the engine hands it over, for tests of the handler and of what it decides by."""

from msgspec import structs

from waypost_queue import ids
from waypost_queue.model import ControlMark, Mail, Recipient, Reply, Ticket
from waypost_queue.work import Work

NOW = 1_795_000_000.0
CONTENT = b"From: app@shop.example\r\nSubject: Hello\r\nMessage-ID: <m1@shop.example>\r\n\r\nHello.\r\n"


def recipient(address: str, *notify: str, orcpt: str = "") -> Recipient:
    return Recipient(address, address.rpartition("@")[2].lower(), notify, orcpt)


def mail(*recipients: Recipient, **fields: object) -> Mail:
    base = Mail(
        id=ids.mail_id(NOW, 0),
        sender="app@shop.example",
        recipients=recipients or (recipient("bob@x.org"),),
        size=len(CONTENT),
        accepted=NOW,
        content=CONTENT,
        domain="shop.example",
        tenant="shop",
        subject="Hello",
        message_id="<m1@shop.example>",
    )
    return structs.replace(base, **fields)


def work(
    subject: Mail | None = None,
    *,
    now: float = NOW,
    ticket: dict[str, object] | None = None,
    mark: ControlMark | None = None,
    pool: str = "default",
    lane: str = "fast",
) -> Work:
    """The first group of `subject`; `ticket` (its fields) makes it a retry."""
    subject = subject if subject is not None else mail()
    domain = subject.recipients[0].domain
    indexes = tuple(i for i, one in enumerate(subject.recipients) if one.domain == domain)

    async def body() -> bytes:
        return subject.content or b""

    return Work(
        mail=subject,
        domain=domain,
        n=indexes[0],
        indexes=indexes,
        recipients=dict(enumerate(subject.recipients)),
        shard=0,
        pool=pool,
        lane=lane,
        stored_at=subject.accepted,
        now=now,
        ticket=None
        if ticket is None
        else structs.replace(Ticket(mail=subject, domain=domain, n=indexes[0], indexes=indexes), **ticket),
        recovered=False,
        mark=mark,
        body=body,
        owned=lambda: True,
    )


NO_USER = Reply(550, "5.1.1", "no such user here", "mx.x.org", "192.0.2.1", NOW + 1)
LATER = Reply(451, "4.7.1", "come back later", "mx.x.org", "192.0.2.1", NOW + 1)
OK = Reply(250, "2.0.0", "Ok: queued as 4711", "mx.x.org", "192.0.2.1", NOW + 1)
