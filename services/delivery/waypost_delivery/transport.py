"""The seam between the delivery handler and whoever carries mail: a job in, an outcome for each recipient out.

The handler decides what to attempt and what an outcome means (retry, expiry, DSN); a transport makes exactly one
attempt and judges nothing but the replies. `smtp.SmtpTransport` is the one that goes to MX hosts and smarthosts.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct
from pydantic import SecretStr

from waypost_queue.config import DestinationLimits, Route
from waypost_queue.events import DialogueLine
from waypost_queue.model import Mail, Recipient, Reply

IpFamily = Literal["IPv4", "IPv6"]


class Timeouts(Struct, frozen=True, kw_only=True):
    """Seconds to wait in each phase: the least that RFC 5321 4.5.3.2 asks for, where it asks."""

    connect: float = 30.0  # TCP; the next address is tried after it
    tls: float = 60.0  # handshake
    greeting: float = 300.0  # 4.5.3.2.1
    hello: float = 300.0  # EHLO, STARTTLS, AUTH, RSET: as for any command
    mail: float = 300.0  # 4.5.3.2.2
    rcpt: float = 300.0  # 4.5.3.2.3
    data: float = 120.0  # 4.5.3.2.4, until 354
    block: float = 180.0  # 4.5.3.2.5, until the remote takes in more of the content
    final: float = 600.0  # 4.5.3.2.6, from the final dot to its reply
    quit: float = 5.0  # no mail depends on it
    # Until the last final dot, whose reply is then waited for by `final`. Both together stay below the engine's own
    # limit, beyond which an attempt counts as a worker's death.
    attempt: float = 1150.0


class DeliveryPlan(Struct, frozen=True, kw_only=True):
    """Effective settings of one attempt: MailDomain and DestinationPolicy taken together.

    `tls` is a floor for MX routes; a smarthost's own `tls` rules its route, and a smarthost with credentials is always
    verified against the trust store (a password is not given to a stranger). Plans are compared: mails with equal plans
    share connections.
    """

    route: Route = Route()
    password: SecretStr = SecretStr("")  # of the smarthost, unsealed
    tls: Literal["Opportunistic", "Encrypted"] = "Opportunistic"
    ip_families: tuple[IpFamily, ...] = ("IPv6", "IPv4")  # in the order they are tried
    limits: DestinationLimits = DestinationLimits()
    ehlo: str = ""  # "" = TransportSettings.hostname
    timeouts: Timeouts = Timeouts()


class Job(Struct, frozen=True, kw_only=True):
    """One group (mail, destination domain) to attempt once.

    `owned` is asked with nothing awaited between it and the bytes that deliver: False raises OwnershipLostError.
    """

    mail: Mail
    recipients: dict[int, Recipient]  # by original index
    content: bytes
    domain: str  # destination: lower-case A-label, or an address literal
    plan: DeliveryPlan
    owned: Callable[[], bool]


class RecipientOutcome(Struct, frozen=True):
    """What became of one recipient.

    `reply.text` is without code and enhanced code, one line, safe to print. `reply.code == 0`: nobody said anything,
    the text is ours (`mta` and `address` name the host it was about). `reply.mta == ""` with a code: ours too (DNS,
    loops).
    A "deferred" outcome may carry a 5xx reply where that is about us and not about the mail (AUTH, 552 after RCPT).
    """

    result: Literal["delivered", "relayed", "failed", "deferred"]
    reply: Reply


class Attempted(Struct, frozen=True, kw_only=True):
    """One attempt: an outcome for every recipient of the job, and what was said."""

    results: dict[int, RecipientOutcome]
    dialogue: tuple[DialogueLine, ...] = ()
    mta: str = ""  # remote host, as in its MX; "" = none was reached
    address: str = ""  # its IP address
    tls: str = ""  # "TLSv1.3 TLS_AES_256_GCM_SHA384" (", verified"), "" = plaintext
    local_address: str = ""
    duration: float = 0.0  # seconds
    site: str = ""


class SiteInfo(Struct, frozen=True, kw_only=True):
    """Where mail for a domain goes: domains with the same MX set are one site."""

    name: str
    mx: tuple[str, ...] = ()  # host names by preference; () = unknown for now, or none
    unknown: Reply | None = None  # why nobody knows for now


class SiteBusyError(Exception):
    """No attempt was made, since the site is full, rests after failures, or is at its rate: spill, try again later.

    `resume_after` (seconds) already spreads what is spilled over the rate at which the site takes mail; it wants a
    little jitter only. `last`, of a resting site: what it failed with, for a mail whose time is up meanwhile.
    """

    def __init__(
        self, site: str, resume_after: float, reason: Literal["full", "resting", "rate"], last: Reply | None = None
    ) -> None:
        super().__init__(f"site {site} is {reason}: again in {resume_after:.1f} s")
        self.site = site
        self.resume_after = resume_after
        self.reason = reason
        self.last = last


class TransportSettings(Struct, frozen=True, kw_only=True):
    """Of the process, the same for every mail."""

    hostname: str  # in EHLO; also ours when it stands among the MX
    dns: tuple[tuple[str, int], ...] = ()  # resolvers (address, port); () = those of the system
    remote_port: int = 25
    allow_private_mx: bool = False  # MX at loopback, private and link-local addresses: laboratories only
    own_names: frozenset[str] = frozenset()  # further names of ours, lower case: loops (RFC 5321 6.3)
    own_addresses: frozenset[str] = frozenset()  # our addresses as the world sees them
    ca_file: str = ""  # further trusted CAs (PEM), for smarthosts
    max_connections: int = 2000  # open at once, over all sites
    site_connections: int = 20  # where no policy says otherwise
    messages_per_connection: int = 100
    recipients_per_message: int = 100  # RFC 5321 4.5.3.1.8: every server takes as many
    connection_age: float = 300.0  # seconds
    connection_idle: float = 10.0


class Transport(Protocol):
    """Makes one attempt."""

    async def deliver(self, job: Job) -> Attempted:
        """Attempts `job` and reports on each recipient; remote and network faults are outcomes, not exceptions.

        Raises SiteBusyError (no attempt was made) and waypost_queue.errors.OwnershipLostError (nothing was delivered
        after it was lost). When cancelled it gives up its connection.
        """

    async def close(self) -> None:
        """Ends every connection (QUIT)."""
