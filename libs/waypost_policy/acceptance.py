"""May this mail come in? Pure decisions, the same for SMTP and HTTP: at MAIL, at each RCPT, and at the content.

    grant = at_mail(index, party, address, smtputf8=False, size=0)                  # an Answer is the refusal
    refusal = at_rcpt(grant, address, accepted, limiter, now)                       # None: granted
    grant = at_content(index, grant, headers, size, accepted, limiter, now)         # an Answer is the refusal

A transaction that ends without an accepted mail gives back what it took, by the last grant that it got:
`limiter.give_back(grant.scopes, accepted, now)`.

Never an open relay: a recipient is accepted from an identity alone, and an identity may use only the addresses that a
MailDomain gives it, in MAIL FROM (unless it is `<>`) and in the header From.
"""

from typing import Final, Literal

from msgspec import Struct, structs

from .addresses import Address
from .headers import Headers
from .identity import Identity
from .index import ConfigIndex, Right
from .limits import Exceeded, Limiter, Scope
from .replies import Answer, Replies

Listener = Literal["mx", "submission", "submissions", "http"]
MAX_RECEIVED: Final = 100  # RFC 5321 6.3: at least 100 before a loop is assumed


class Party(Struct, frozen=True):
    """Who speaks, and where: made once a session, and again after AUTH.

    `hidden` is why a network's trust is off (`peers.PeerGate`), "" if nothing is the matter; `identity` is then None.
    """

    identity: Identity | None
    listener: Listener
    hidden: str = ""


class Grant(Struct, frozen=True):
    """What was granted. `domain`, `tenant` and `pool` are known after `at_content` if the reverse-path is `<>`."""

    identity: Identity | None
    sender: Address
    smtputf8: bool
    message_size: int  # octets: the least of the limits that apply
    size_of: str  # whose limit that is, for people
    recipients_per_message: int
    recipients_of: str
    hidden: str = ""
    scopes: tuple[Scope, ...] = ()
    domain: str = ""  # governing MailDomain
    tenant: str = ""  # its namespace
    pool: str = "default"

    @property
    def credential(self) -> str:
        """For `Mail.credential`: login, "namespace/serviceaccount", or peer address."""
        return self.identity.name if self.identity is not None else ""


def at_mail(
    index: ConfigIndex, party: Party, sender: Address, *, smtputf8: bool = False, size: int = 0
) -> Grant | Answer:
    """MAIL FROM. `size` is the SIZE parameter in octets, 0 if there is none."""
    if sender.utf8 and not smtputf8:
        return Replies.NEEDS_SMTPUTF8(address=sender.text)
    identity = party.identity
    if identity is None:
        if party.listener != "mx":
            return Replies.NETWORK_HIDDEN(reason=party.hidden) if party.hidden else Replies.AUTH_REQUIRED()
        ceilings = index.ceilings
        server = "of this server"
        grant = Grant(
            None,
            sender,
            smtputf8,
            ceilings.message_size,
            server,
            ceilings.recipients_per_message,
            server,
            party.hidden,
        )
    else:
        rights = index.rights(identity)
        if sender.text:
            right = rights.find(sender)
            if right is None:
                return Replies.SENDER_NOT_ALLOWED(who=identity.label, address=sender.text, allowed=rights.allowed)
            grant = Grant(
                identity,
                sender,
                smtputf8,
                right.message_size,
                right.size_of,
                right.recipients_per_message,
                right.recipients_of,
                "",
                _scopes(index, right, sender),
                right.domain.domain,
                right.domain.namespace,
                right.domain.pool,
            )
        else:
            if not rights.all:
                return Replies.SENDER_NOT_ALLOWED(who=identity.label, address="<>", allowed=rights.allowed)
            grant = _null_grant(identity, sender, smtputf8, rights.all)
    if size > grant.message_size:
        return Replies.TOO_BIG(limit=grant.message_size, of=grant.size_of)
    return grant


def at_rcpt(grant: Grant, recipient: Address, accepted: int, limiter: Limiter, now: float) -> Answer | None:
    """RCPT TO, when `accepted` recipients were accepted before it. None: granted, and counted."""
    if recipient.utf8 and not grant.smtputf8:
        return Replies.NEEDS_SMTPUTF8(address=recipient.text)
    if grant.identity is None:
        if grant.hidden:
            return Replies.NETWORK_HIDDEN(reason=grant.hidden)
        return Replies.RELAY_DENIED(address=recipient.text)
    if accepted >= grant.recipients_per_message:
        return Replies.TOO_MANY_RECIPIENTS(limit=grant.recipients_per_message, of=grant.recipients_of)
    exceeded = limiter.take(grant.scopes, 1, now) if grant.scopes else None
    return None if exceeded is None else _rate_exceeded(exceeded)


def at_content(
    index: ConfigIndex, grant: Grant, headers: Headers, size: int, accepted: int, limiter: Limiter, now: float
) -> Grant | Answer:
    """The content, of `size` octets, for `accepted` recipients: the grant with its domain, tenant and pool."""
    if size > grant.message_size:
        return Replies.TOO_BIG(limit=grant.message_size, of=grant.size_of)
    if headers.received >= MAX_RECEIVED:
        return Replies.LOOP(count=headers.received)
    identity = grant.identity
    if identity is None:
        return Replies.AUTH_REQUIRED()
    rights = index.rights(identity)
    governing: Right | None = None
    for author in headers.from_:
        if author.utf8 and not grant.smtputf8:
            return Replies.FROM_NEEDS_SMTPUTF8(address=author.text)
        right = rights.find(author)
        if right is None:
            sender = grant.sender.text or "<>"
            return Replies.FROM_NOT_ALLOWED(
                who=identity.label, address=author.text, sender=sender, allowed=rights.allowed
            )
        governing = governing or right
    if grant.sender.text:
        return grant
    if governing is None:
        return Replies.NO_FROM()
    scopes = governing.scopes
    exceeded = limiter.take(scopes, accepted, now)
    if exceeded is not None:
        return _rate_exceeded(exceeded)
    domain = governing.domain
    return structs.replace(grant, scopes=scopes, domain=domain.domain, tenant=domain.namespace, pool=domain.pool)


def _null_grant(identity: Identity, sender: Address, smtputf8: bool, rights: tuple[Right, ...]) -> Grant:
    """For `<>`: the header From will say which entry governs, so the least of them all holds until then.

    Rates are counted at the content, in one go; so no mail takes more recipients than a window does.
    """
    size = min(rights, key=lambda right: right.message_size)
    recipients = min(rights, key=lambda right: right.recipients_per_message)
    most, of = recipients.recipients_per_message, recipients.recipients_of
    for scope in (scope for right in rights for scope in right.scopes):
        for limit in (scope.per_minute, scope.per_day):
            if limit is not None and limit < most:
                most, of = limit, scope.of
    return Grant(identity, sender, smtputf8, size.message_size, size.size_of, most, of)


def _scopes(index: ConfigIndex, right: Right, sender: Address) -> tuple[Scope, ...]:
    """The right's, and one of the reverse-path if the server limits each."""
    per_minute = index.ceilings.address_recipients_per_minute
    if per_minute is None:
        return right.scopes
    address = sender.text.lower()
    return (*right.scopes, Scope(f"address:{address}", sender.text, "of each address on this server", per_minute))


def _rate_exceeded(exceeded: Exceeded) -> Answer:
    return Replies.RATE_EXCEEDED(
        who=exceeded.scope.who,
        limit=exceeded.limit,
        window=exceeded.window,
        of=exceeded.scope.of,
        seconds=exceeded.seconds,
    )
