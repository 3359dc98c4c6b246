"""What both kinds use: names, references, smarthosts, retry."""

from typing import Annotated, Final, Literal

from .schema import Duration, Model, Number, Rule, Text, ordered, union

GROUP: Final = "waypost.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

LABEL_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DOMAIN_PATTERN: Final = r"^([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])$"
_DOMAIN_GLOB_PATTERN: Final = r"^(\*\.)?([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9])?\.)+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])$"

Label = Annotated[
    str, Text(max=63, pattern=LABEL_PATTERN, means="lower-case letters, digits and '-', such as shop-smtp")
]
DOMAIN: Final = Text(
    max=253,
    pattern=DOMAIN_PATTERN,
    means="a domain in lower case, of two labels or more, IDNs as A-labels: example.com, xn--bcher-kva.example",
)
Domain = Annotated[str, DOMAIN]
DomainGlob = Annotated[
    str,
    Text(max=253, pattern=_DOMAIN_GLOB_PATTERN, means="a domain in lower case, or *. and a domain: *.example.com"),
]
HostName = Annotated[str, Text(max=253, min=1)]
OBJECT_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
ObjectName = Annotated[
    str, Text(max=253, pattern=OBJECT_PATTERN, means="an object's name: lower-case letters, digits, '-' and '.'")
]
Port = Annotated[int, Number(min=1, max=65535)]
TlsFloor = Literal["Opportunistic", "Encrypted", "Verified"]

_INITIAL = Duration(at_least="30s", at_most="4h")
_MAX = Duration(at_least="1m", at_most="24h")
_EXPIRE = Duration(at_least="5m", at_most="240h")


class SecretRef(Model, frozen=True):
    """A Secret in the object's own namespace (a DestinationPolicy's: in the release namespace)."""

    name: ObjectName


class ServiceRef(Model, frozen=True):
    """A Service in the object's own namespace."""

    name: Label
    port: Port


class HttpServiceRef(Model, frozen=True):
    name: Label
    port: Port
    path: Annotated[str, Text(max=512)] | None = None


class Smarthost(Model, frozen=True):
    host: HostName
    port: Port = 587
    tls: Literal["StartTLS", "Implicit", "None"] = "StartTLS"
    secret_ref: SecretRef | None = None

    RULES = (
        Rule(
            cel="!has(self.secretRef) || self.tls != 'None'",
            message="credentials need TLS",
            mirror=lambda self: None if "secretRef" not in self or self["tls"] != "None" else ("tls",),
        ),
    )


class Route(Model, frozen=True):
    type: Literal["MX", "Smarthost"]
    smarthost: Smarthost | None = None

    RULES = (union("type", "Smarthost", "smarthost"),)


_RETRY_RULES = (ordered("initial", "max"), ordered("max", "expireAfter"))


class Retry(Model, frozen=True):
    """When a deferred mail is tried again, and when it is given up."""

    initial: Annotated[str, _INITIAL] = "5m"
    max: Annotated[str, _MAX] = "4h"
    expire_after: Annotated[str, _EXPIRE] = "120h"
    notify_delay_after: Annotated[str, Duration()] = "4h"

    RULES = _RETRY_RULES


class RetryOverride(Model, frozen=True):
    """The same without defaults: what is absent leaves the MailDomain's value."""

    initial: Annotated[str, _INITIAL] | None = None
    max: Annotated[str, _MAX] | None = None
    expire_after: Annotated[str, _EXPIRE] | None = None
    notify_delay_after: Annotated[str, Duration()] | None = None

    RULES = _RETRY_RULES
