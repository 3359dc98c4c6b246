"""Which settings apply to a destination."""

import pytest

from waypost_delivery.effective import Configured, PolicyIndex, merge, reserved
from waypost_queue.config import (
    DestinationConfig,
    DestinationLimits,
    DomainConfig,
    Retry,
    RetryOverride,
    Route,
    Smarthost,
    Snapshot,
)
from waypost_queue.model import Mail


def index(*policies: DestinationConfig) -> PolicyIndex:
    return PolicyIndex({policy.name: policy for policy in policies})


def name_of(policy: DestinationConfig | None) -> str:
    return policy.name if policy is not None else ""


EXACT = DestinationConfig("exact", domains=("mail.x.org",))
BY_MX = DestinationConfig("by-mx", mx=("*.protection.outlook.com", "mx.special.net"))
BELOW = DestinationConfig("below", domains=("*.x.org",))
DEFAULT = DestinationConfig("default", domains=("*",))
OUTLOOK = ("x-org.mail.protection.outlook.com",)


@pytest.mark.parametrize(
    ("policies", "domain", "mx", "expected"),
    [
        ((EXACT, BY_MX, BELOW, DEFAULT), "mail.x.org", OUTLOOK, "exact"),
        ((BY_MX, BELOW, DEFAULT), "mail.x.org", OUTLOOK, "by-mx"),
        ((BY_MX, BELOW, DEFAULT), "mail.x.org", ("mx.other.net",), "below"),
        ((BY_MX, DEFAULT), "mail.x.org", ("mx.other.net",), "default"),
        ((BY_MX, BELOW), "y.org", (), ""),
        ((BELOW,), "x.org", (), ""),
        ((BELOW,), "a.b.x.org", (), "below"),
        ((BELOW,), "notx.org", (), ""),
        ((BY_MX,), "y.org", ("MX.Special.Net.",), "by-mx"),
        ((DEFAULT,), "[192.0.2.1]", (), "default"),
        ((DestinationConfig("default"),), "y.org", (), "default"),
    ],
)
def test_the_most_specific_policy_decides(
    policies: tuple[DestinationConfig, ...], domain: str, mx: tuple[str, ...], expected: str
) -> None:
    assert name_of(index(*policies).find(domain, mx)) == expected


def test_the_longer_of_two_suffixes_wins_whatever_their_names() -> None:
    policies = index(DestinationConfig("a", domains=("*.org",)), DestinationConfig("z", domains=("*.x.org",)))
    assert name_of(policies.find("mail.x.org")) == "z"
    by_host = index(DestinationConfig("a", mx=("*.com",)), DestinationConfig("z", mx=("*.outlook.com",)))
    assert name_of(by_host.find("x.org", OUTLOOK)) == "z"


def test_the_mx_are_asked_only_where_they_can_matter() -> None:
    policies = index(EXACT, BY_MX)
    assert policies.needs_mx("y.org")
    assert not policies.needs_mx("mail.x.org")
    assert not index(EXACT, BELOW, DEFAULT).needs_mx("y.org")


def test_a_policy_overrides_field_by_field_and_leaves_the_rest() -> None:
    domain = DomainConfig("shop.example", "shop", pool="warm", tls="Encrypted", retry=Retry(initial=60.0, max=600.0))
    policy = DestinationConfig(
        "p",
        domains=("x.org",),
        limits=DestinationLimits(connections=3),
        ip_families=("IPv4",),
        retry=RetryOverride(expire_after=7200.0),
    )
    effective = merge(domain, policy)
    assert effective.plan.tls == "Encrypted"
    assert effective.plan.limits.connections == 3
    assert effective.plan.ip_families == ("IPv4",)
    assert effective.pool == "warm"
    assert effective.retry == Retry(initial=60.0, max=600.0, expire_after=7200.0)


def test_an_initial_delay_beyond_the_greatest_raises_the_greatest() -> None:
    domain = DomainConfig("shop.example", "shop", retry=Retry(initial=60.0, max=600.0))
    assert merge(domain, DestinationConfig("p", retry=RetryOverride(initial=900.0))).retry.max == 900.0


def test_both_address_families_are_tried_ipv6_first_in_whatever_order_they_are_named() -> None:
    domain = DomainConfig("shop.example", "shop")
    assert merge(domain, DestinationConfig("p", ip_families=("IPv4", "IPv6"))).plan.ip_families == ("IPv6", "IPv4")
    assert merge(domain, None).plan.ip_families == ("IPv6", "IPv4")


def test_the_route_of_a_policy_brings_its_own_secret() -> None:
    domain = DomainConfig(
        "shop.example", "shop", route=Route("Smarthost", Smarthost("a.example", username="u", secret="smarthost.a"))
    )
    assert merge(domain, None).secret == "smarthost.a"
    effective = merge(domain, DestinationConfig("p", route=Route("Smarthost", Smarthost("gw.corp.example", 25))))
    assert effective.plan.route.smarthost == Smarthost("gw.corp.example", 25)
    assert effective.secret == ""


def test_mail_of_a_deleted_domain_keeps_its_last_settings_and_that_of_an_unknown_one_gets_the_defaults() -> None:
    configured = Configured(
        Snapshot(domains={"gone.example": DomainConfig("gone.example", "shop", pool="bulk", deleted=True)})
    )
    gone = Mail(id="m", sender="", recipients=(), size=0, accepted=0.0, domain="gone.example")
    assert configured.domain(gone).pool == "bulk"
    unknown = Mail(id="m", sender="", recipients=(), size=0, accepted=0.0, domain="new.example", tenant="t")
    assert configured.domain(unknown) == DomainConfig("new.example", "t")


@pytest.mark.parametrize(
    ("domain", "inside"),
    [
        ("x.test", True),
        ("test", True),
        ("a.b.example", True),
        ("x.invalid", True),
        ("localhost", True),
        ("x.localhost", True),
        ("example.com", False),
        ("test.com", False),
        ("mytest", False),
        ("[192.0.2.1]", False),
    ],
)
def test_reserved_names_are_those_of_rfc_6761(domain: str, inside: bool) -> None:
    assert reserved(domain) is inside
