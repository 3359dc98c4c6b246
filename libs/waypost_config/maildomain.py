"""MailDomain: one domain, who may send as it, and how its mail leaves and arrives."""

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from .common import (
    DOMAIN,
    Domain,
    HttpServiceRef,
    Label,
    ObjectName,
    Port,
    Retry,
    Route,
    SecretRef,
    ServiceRef,
    TlsFloor,
)
from .schema import Duration, Entries, Items, Model, Number, Path, Quantity, Rule, Text, one_of, union

Address = Annotated[str, Text(max=320)]
SenderAddress = Annotated[
    str,
    Text(
        max=320,
        pattern=r"^([^@\s{}]|\{namespace\}|\{serviceaccount\}){1,64}@[^@\s{}]{1,253}$",
        means="local part, @ and the domain; the local part may hold *, {namespace} and {serviceaccount}",
    ),
]
SMALLEST_NETWORK = 8  # prefix length


class Limits(Model, frozen=True):
    recipients_per_minute: Annotated[int, Number(min=1, max=1_000_000)] | None = None
    recipients_per_day: Annotated[int, Number(min=1, max=100_000_000)] | None = None
    recipients_per_message: Annotated[int, Number(min=1, max=1000)] | None = None
    message_size: Annotated[int | str, Quantity(at_least="64Ki", at_most="100Mi")] | None = None


class Selector(Model, frozen=True):
    match_labels: Annotated[dict[str, Annotated[str, Text(max=63)]], Entries(max=16)]


def _name(self: Mapping[str, Any]) -> Path | None:
    if (self["kind"] in ("ServiceAccount", "Secret")) == ("name" in self):
        return None
    return ("name",) if "name" in self else ()


def _cidr(self: Mapping[str, Any]) -> Path | None:
    if self["kind"] != "Network":
        return ("cidr",) if "cidr" in self else None
    if "cidr" not in self:
        return ()
    address, _, prefix = self["cidr"].partition("/")
    try:
        network = ipaddress.ip_network(self["cidr"], strict=False)
    except ValueError:
        return ("cidr",)
    # As netip.ParsePrefix: no netmask, zone, leading zero or IPv4 within IPv6.
    written = prefix.isdecimal() and str(int(prefix)) == prefix and "%" not in address
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        return ("cidr",)
    return None if written and network.prefixlen >= SMALLEST_NETWORK else ("cidr",)


class Subject(Model, frozen=True):
    """Who may send, as in an RBAC RoleBinding: granting is one-sided."""

    kind: Literal["ServiceAccount", "Namespaces", "Secret", "Network"]
    name: ObjectName | None = None
    namespace: Label | None = None
    selector: Selector | None = None
    cidr: Annotated[str, Text(max=43)] | None = None

    RULES = (
        Rule(
            cel="self.kind in ['ServiceAccount','Secret'] ? has(self.name) : !has(self.name)",
            message="name is for ServiceAccount and Secret",
            mirror=_name,
        ),
        Rule(
            cel="self.kind == 'ServiceAccount' || !has(self.namespace)",
            message="namespace is for ServiceAccount only; Secrets are read in this namespace alone",
            mirror=lambda self: None if self["kind"] == "ServiceAccount" or "namespace" not in self else ("namespace",),
        ),
        Rule(
            cel="self.kind == 'Namespaces' ? has(self.selector) : !has(self.selector)",
            message="selector is for Namespaces",
            mirror=lambda self: None if (self["kind"] == "Namespaces") == ("selector" in self) else (),
        ),
        Rule(
            cel="self.kind == 'Network' ? has(self.cidr) && isCIDR(self.cidr) && "
            f"cidr(self.cidr).prefixLength() >= {SMALLEST_NETWORK} : !has(self.cidr)",
            message=f"cidr (/{SMALLEST_NETWORK} or longer) is for Network",
            mirror=_cidr,
        ),
    )


class Sender(Model, frozen=True):
    name: Label
    subjects: Annotated[tuple[Subject, ...], Items(max=32, min=1)]
    addresses: Annotated[tuple[SenderAddress, ...], Items(max=32, kind="set")] | None = None
    limits: Limits | None = None


class Rotation(Model, frozen=True):
    policy: Literal["Manual", "Automatic"] = "Manual"
    interval: Annotated[str, Duration(at_least="168h")] = "2160h"
    overlap: Annotated[str, Duration(at_least="24h")] = "168h"


class KeyRef(Model, frozen=True):
    name: ObjectName
    key: Annotated[str, Text(max=253)] = ""


class DkimKey(Model, frozen=True):
    selector: Annotated[
        str, Text(max=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", means="one or more labels in lower case")
    ]
    secret_ref: KeyRef


class Dkim(Model, frozen=True):
    # [] until there is signing; then RSA2048.
    algorithms: Annotated[tuple[Literal["RSA2048", "Ed25519"], ...], Items(max=2, kind="set")] = ()
    rotation: Rotation = Rotation()
    keys: Annotated[tuple[DkimKey, ...], Items(max=4, kind="map", keys=("selector",))] | None = None

    RULES = (
        Rule(
            cel="!has(self.keys) || size(self.keys) == 0 || self.rotation.policy == 'Manual'",
            message="your own keys are rotated by you: rotation.policy must be Manual",
            mirror=lambda self: (
                None if not self.get("keys") or self["rotation"]["policy"] == "Manual" else ("rotation", "policy")
            ),
        ),
    )


class Verp(Model, frozen=True):
    domain: Domain


class ReturnPath(Model, frozen=True):
    type: Literal["AsSubmitted", "VERP"]
    verp: Verp | None = None

    RULES = (union("type", "VERP", "verp"),)


class Outbound(Model, frozen=True):
    route: Route = Route(type="MX")
    pool: Label = "default"
    tls: TlsFloor = "Opportunistic"
    retry: Retry = Retry()
    return_path: ReturnPath = ReturnPath(type="AsSubmitted")
    hold_until: Literal["Accepted", "DNSReady"] = "Accepted"


class Lmtp(Model, frozen=True):
    service: ServiceRef | None = None
    host: Annotated[str, Text(max=253)] | None = None
    port: Port | None = None

    RULES = (one_of("service", "host"),)


class Maildir(Model, frozen=True):
    store: Label = "default"


class Endpoint(Model, frozen=True):
    """Exactly one of a Service of the own namespace and an https URL."""

    service: HttpServiceRef | None = None
    url: Annotated[str, Text(max=1024, pattern="^https://", means="an https URL")] | None = None
    secret_ref: SecretRef | None = None  # HMAC-SHA256

    RULES = (one_of("service", "url"),)


class Forward(Model, frozen=True):
    addresses: Annotated[tuple[Address, ...], Items(max=16, min=1, kind="set")]


class Recipient(Model, frozen=True):
    """Who takes mail for a local part: exact matches first, then the longest glob."""

    match: Annotated[str, Text(max=64, min=1)]
    type: Literal["LMTP", "Maildir", "Webhook", "Forward", "Reject"]
    lmtp: Lmtp | None = None
    maildir: Maildir | None = None
    webhook: Endpoint | None = None
    forward: Forward | None = None

    RULES = (
        union("type", "LMTP", "lmtp"),
        union("type", "Maildir", "maildir", required=False),
        union("type", "Webhook", "webhook"),
        union("type", "Forward", "forward"),
    )


class Dnsbl(Model, frozen=True):
    zone: Domain
    action: Literal["Mark", "Reject"] = "Reject"


class Rspamd(Endpoint, frozen=True):
    on_error: Literal["Accept", "Defer"] = "Accept"


class Checks(Model, frozen=True):
    spf: Literal["Ignore", "Mark", "Reject"] = "Mark"
    dkim: Literal["Ignore", "Mark"] = "Mark"
    dmarc: Literal["Ignore", "Mark", "Enforce"] = "Enforce"
    dnsbl: Annotated[tuple[Dnsbl, ...], Items(max=8, kind="map", keys=("zone",))] | None = None
    greylisting: Literal["Disabled", "Enabled"] = "Disabled"
    rspamd: Rspamd | None = None


class Inbound(Model, frozen=True):
    recipients: Annotated[tuple[Recipient, ...], Items(max=128, min=1, kind="map", keys=("match",))]
    checks: Checks = Checks()


class Dns(Model, frozen=True):
    publish: Literal["None", "DNSEndpoint"] = "None"
    dmarc: Literal["None", "Quarantine", "Reject", "Unmanaged"] = "None"
    report_to: Address | None = None
    mta_sts: Literal["None", "Testing", "Enforce"] = msgspec.field(default="None", name="mtaSTS")


class Suppression(Model, frozen=True):
    # [] until there is suppression; then both.
    causes: Annotated[tuple[Literal["HardBounce", "Complaint"], ...], Items(max=2, kind="set")] = ()
    ttl: Annotated[str, Duration(at_least="24h")] = "2160h"


WebhookEvent = Literal[
    "Accepted", "Delivered", "Deferred", "Bounced", "Complained", "Suppressed", "Received", "DomainCondition"
]


class Webhook(Model, frozen=True):
    name: Label
    endpoint: Endpoint
    events: Annotated[tuple[WebhookEvent, ...], Items(max=8, min=1, kind="set")]


def _addresses_in_domain(self: Mapping[str, Any]) -> Path | None:
    suffix = "@" + self["domain"]
    for index, sender in enumerate(self.get("senders", ())):
        for place, address in enumerate(sender.get("addresses", ())):
            if not address.endswith(suffix):
                return ("senders", index, "addresses", place)
    return None


def _verp_in_domain(self: Mapping[str, Any]) -> Path | None:
    path = self["outbound"]["returnPath"]
    if "verp" not in path:
        return None
    domain = path["verp"]["domain"]
    if domain == self["domain"] or domain.endswith("." + self["domain"]):
        return None
    return ("outbound", "returnPath", "verp", "domain")


class MailDomainSpec(Model, frozen=True):
    domain: Annotated[
        str,
        replace(
            DOMAIN,
            rules=(Rule(cel="self == oldSelf", message="domain is immutable; create another MailDomain"),),
        ),
    ]
    suspend: Literal["None", "Outbound", "Inbound", "All"] = "None"
    senders: Annotated[tuple[Sender, ...], Items(max=64, kind="map", keys=("name",))] | None = None
    limits: Limits | None = None
    dkim: Dkim = Dkim()
    outbound: Outbound = Outbound()
    inbound: Inbound | None = None
    dns: Dns = Dns()
    suppression: Suppression = Suppression()
    webhooks: Annotated[tuple[Webhook, ...], Items(max=8, kind="map", keys=("name",))] | None = None

    RULES = (
        Rule(
            cel="!has(self.senders) || self.senders.all(s, !has(s.addresses) || "
            "s.addresses.all(a, a.endsWith('@' + self.domain)))",
            message="every sender address must be in spec.domain",
            mirror=_addresses_in_domain,
        ),
        Rule(
            cel="self.dns.mtaSTS == 'None' || has(self.inbound)",
            message="mtaSTS is for domains that take inbound mail",
            mirror=lambda self: None if self["dns"]["mtaSTS"] == "None" or "inbound" in self else ("dns", "mtaSTS"),
        ),
        Rule(
            cel="!has(self.outbound.returnPath.verp) || self.outbound.returnPath.verp.domain == self.domain || "
            "self.outbound.returnPath.verp.domain.endsWith('.' + self.domain)",
            message="the VERP domain must be spec.domain or below it, for SPF alignment",
            mirror=_verp_in_domain,
        ),
    )


ROOT_RULES = (
    Rule(
        cel="self.metadata.name == self.spec.domain",
        message_cel="'metadata.name must be the domain: ' + self.spec.domain",
        mirror=lambda self: None if self["metadata"]["name"] == self["spec"]["domain"] else ("metadata", "name"),
        text=lambda self: f"metadata.name must be the domain: {self['spec']['domain']}",
    ),
)
