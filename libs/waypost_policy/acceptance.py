"""May this mail come in? Pure decisions, the same for SMTP and HTTP, at MAIL, at each RCPT and at the content.

    grant = at_mail(index, party, address, smtputf8=False, size=0)          # Answer = refusal
    again = at_rcpt(index, grant, address, accepted, limiter, now)          # None = granted
    final = at_content(index, grant, headers, size, accepted, limiter, now) # Answer = refusal

A transaction that ends without acceptance gives back what it took: `limiter.give_back(grant.scopes, accepted, now)`.
"""

from typing import Literal

from msgspec import Struct

from .addresses import Address
from .headers import Headers
from .identity import Identity
from .index import ConfigIndex
from .limits import Limiter, Scope
from .replies import Answer

Listener = Literal["mx", "submission", "submissions", "http"]


class Party(Struct, frozen=True):
    """Who speaks, and where: made once a session, and again after AUTH."""

    identity: Identity | None
    listener: Listener


class Grant(Struct, frozen=True):
    """What was granted. `domain`, `tenant` and `pool` are empty until `at_content` if the reverse-path is `<>`."""

    identity: Identity | None
    sender: Address
    smtputf8: bool
    message_size: int  # octets: the least of all limits that apply
    recipients_per_message: int
    size_of: str  # whose limit that is, for people
    recipients_of: str
    scopes: tuple[Scope, ...] = ()
    domain: str = ""
    tenant: str = ""
    pool: str = "default"
    credential: str = ""


def at_mail(
    index: ConfigIndex, party: Party, sender: Address, *, smtputf8: bool = False, size: int = 0
) -> Grant | Answer:
    """MAIL FROM. `size` is the SIZE parameter, 0 if there is none."""
    raise NotImplementedError


def at_rcpt(
    index: ConfigIndex, grant: Grant, recipient: Address, accepted: int, limiter: Limiter, now: float
) -> Answer | None:
    """RCPT TO, `accepted` recipients being accepted before it. None: granted and counted."""
    raise NotImplementedError


def at_content(
    index: ConfigIndex, grant: Grant, headers: Headers, size: int, accepted: int, limiter: Limiter, now: float
) -> Grant | Answer:
    """The content of `size` octets for `accepted` recipients: the final grant, its domain, tenant and pool known."""
    raise NotImplementedError
