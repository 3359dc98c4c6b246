"""What the schema already holds and Waypost does not do yet: refused with a sentence, never ignored.

An entry goes when its function comes to life.
"""

from collections.abc import Callable
from typing import Any, Final

from .destinationpolicy import DestinationPolicySpec
from .maildomain import MailDomainSpec, Rotation, Suppression
from .schema import Path
from .validate import Flaw

_MailDomainEntry = tuple[Path, Callable[[MailDomainSpec], Any], str]
_PolicyEntry = tuple[Path, Callable[[DestinationPolicySpec], Any], str]

_NO_SIGNING = "Waypost does not sign with DKIM yet"
_NO_VERIFIED = "Waypost does not verify the certificates of next hops yet; use Encrypted"
_NO_DNS = "Waypost does not publish or check DNS records yet"

_MAIL_DOMAIN: Final[tuple[_MailDomainEntry, ...]] = (
    (("inbound",), lambda s: s.inbound, "Waypost does not take inbound mail yet; remove inbound"),
    (("dkim", "algorithms"), lambda s: s.dkim.algorithms, f"{_NO_SIGNING}; remove algorithms, or set it to []"),
    (("dkim", "keys"), lambda s: s.dkim.keys, f"{_NO_SIGNING}; remove keys"),
    (
        ("dkim", "rotation", "policy"),
        lambda s: s.dkim.rotation.policy != "Manual",
        f"{_NO_SIGNING}; remove policy, or set it to Manual",
    ),
    (
        ("dkim", "rotation", "interval"),
        lambda s: s.dkim.rotation.interval != Rotation().interval,
        f"{_NO_SIGNING}; remove interval",
    ),
    (
        ("dkim", "rotation", "overlap"),
        lambda s: s.dkim.rotation.overlap != Rotation().overlap,
        f"{_NO_SIGNING}; remove overlap",
    ),
    (("outbound", "tls"), lambda s: s.outbound.tls == "Verified", _NO_VERIFIED),
    (
        ("outbound", "returnPath", "type"),
        lambda s: s.outbound.return_path.type != "AsSubmitted",
        "Waypost does not rewrite return paths yet; use AsSubmitted",
    ),
    (
        ("outbound", "holdUntil"),
        lambda s: s.outbound.hold_until != "Accepted",
        f"{_NO_DNS}; use Accepted",
    ),
    (("dns", "publish"), lambda s: s.dns.publish != "None", f"{_NO_DNS}; remove publish, or set it to None"),
    (("dns", "dmarc"), lambda s: s.dns.dmarc != "None", f"{_NO_DNS}; remove dmarc, or set it to None"),
    (("dns", "reportTo"), lambda s: s.dns.report_to, f"{_NO_DNS}; remove reportTo"),
    (("dns", "mtaSTS"), lambda s: s.dns.mta_sts != "None", f"{_NO_DNS}; remove mtaSTS, or set it to None"),
    (
        ("suppression", "causes"),
        lambda s: s.suppression.causes,
        "Waypost does not suppress recipients yet; remove causes, or set it to []",
    ),
    (
        ("suppression", "ttl"),
        lambda s: s.suppression.ttl != Suppression().ttl,
        "Waypost does not suppress recipients yet; remove ttl",
    ),
    (("webhooks",), lambda s: s.webhooks, "Waypost does not call webhooks yet; remove webhooks"),
)

_DESTINATION_POLICY: Final[tuple[_PolicyEntry, ...]] = ((("tls",), lambda s: s.tls == "Verified", _NO_VERIFIED),)


def not_yet(spec: MailDomainSpec | DestinationPolicySpec) -> list[Flaw]:
    """What a valid spec asks for that does not exist yet; paths begin at the object."""
    if isinstance(spec, MailDomainSpec):
        return [Flaw(("spec", *path), text) for path, asks, text in _MAIL_DOMAIN if asks(spec)]
    return [Flaw(("spec", *path), text) for path, asks, text in _DESTINATION_POLICY if asks(spec)]
