"""Compiled configuration, as it lies in the KV bucket `config` and as services use it.

`waypost_config` compiles resources into these; `waypost_policy` and the services decide by them. Keys:
`domain.<token(domain)>`, `credential.<token(username)>`, `policy.<token(name)>`, `meta`. One domain is one key, so that
a change of a domain is atomic. Secrets are not here: a `secret` field names a key of the bucket `keys`, whose value is
sealed.
"""

from typing import Literal

from msgspec import field

from .model import Wire


class Limits(Wire, frozen=True):
    """None = no limit of its own."""

    recipients_per_minute: int | None = None
    recipients_per_day: int | None = None
    recipients_per_message: int | None = None
    message_size: int | None = None  # octets


class Subject(Wire, frozen=True):
    """Who may send, one member of a sender's `subjects`."""

    kind: Literal["ServiceAccount", "Namespaces", "Secret", "Network"]
    namespace: str = ""  # ServiceAccount, Secret
    name: str = ""  # ServiceAccount, Secret
    namespaces: tuple[str, ...] = ()  # Namespaces: those that the selector matches now
    cidr: str = ""  # Network


class Sender(Wire, frozen=True):
    name: str
    subjects: tuple[Subject, ...]
    addresses: tuple[str, ...]  # local part may hold *, {namespace}, {serviceaccount}
    limits: Limits = Limits()


class Smarthost(Wire, frozen=True):
    host: str
    port: int = 587
    tls: Literal["StartTLS", "Implicit", "None"] = "StartTLS"
    username: str = ""
    secret: str = ""  # key in the bucket `keys`: the sealed password


class Route(Wire, frozen=True):
    type: Literal["MX", "Smarthost"] = "MX"
    smarthost: Smarthost | None = None


class Retry(Wire, frozen=True):
    """Seconds."""

    initial: float = 300.0
    max: float = 14400.0
    expire_after: float = 432000.0
    notify_delay_after: float = 14400.0


class RetryOverride(Wire, frozen=True):
    """A DestinationPolicy's: None leaves the MailDomain's value."""

    initial: float | None = None
    max: float | None = None
    expire_after: float | None = None
    notify_delay_after: float | None = None


class DomainConfig(Wire, frozen=True):
    """A MailDomain, compiled."""

    domain: str
    namespace: str
    generation: int = 0
    suspend: Literal["None", "Outbound", "Inbound", "All"] = "None"
    senders: tuple[Sender, ...] = ()
    limits: Limits = Limits()
    route: Route = Route()
    pool: str = "default"
    tls: Literal["Opportunistic", "Encrypted"] = "Opportunistic"
    retry: Retry = Retry()
    inbound: bool = False
    deleted: bool = False  # gone: its queued mail goes on with these settings, new mail is refused


class CredentialConfig(Wire, frozen=True):
    """A login: key `credential.<token(username)>`. `hash` is an Argon2id or scrypt encoded string."""

    username: str  # lower case; ends in @<domain>
    domain: str
    namespace: str
    secret: str  # name of the Secret that it came from
    hash: str


class DestinationLimits(Wire, frozen=True):
    connections: int | None = None
    messages_per_connection: int | None = None
    messages_per_minute: int | None = None
    recipients_per_message: int | None = None
    adaptive: bool = True


class DestinationConfig(Wire, frozen=True):
    """A DestinationPolicy, compiled. Specificity: exact domain > mx > *.domain > the policy named "default"."""

    name: str
    domains: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()
    suspended: bool = False
    limits: DestinationLimits = DestinationLimits()
    tls: Literal["", "Opportunistic", "Encrypted"] = ""
    ip_families: tuple[Literal["IPv4", "IPv6"], ...] = ()
    pool: str = ""
    retry: RetryOverride = RetryOverride()
    route: Route | None = None
    generation: int = 0


class Meta(Wire, frozen=True):
    """Key `meta`: written last, so that who sees generation g has seen all of it."""

    generation: int = 0
    write_format: int = 1
    jwks: str = ""  # JSON Web Key Set that verifies ServiceAccount tokens
    issuer: str = ""


class Snapshot(Wire, frozen=True):
    """All of it at one moment."""

    domains: dict[str, DomainConfig] = field(default_factory=dict)
    credentials: dict[str, CredentialConfig] = field(default_factory=dict)  # by user name
    policies: dict[str, DestinationConfig] = field(default_factory=dict)
    meta: Meta = Meta()
