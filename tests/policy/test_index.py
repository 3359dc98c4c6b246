"""Who may send as what: sender patterns, subjects, networks, and what a changed configuration takes away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_policy.addresses import Address, parse_address
from waypost_policy.identity import Identity, service_account
from waypost_policy.index import Ceilings, ConfigIndex, canonical_address
from waypost_policy.patterns import compile_patterns
from waypost_queue.config import CredentialConfig, DomainConfig, Limits, Sender, Snapshot, Subject

LOGIN = Identity("Secret", "shop-smtp@example.com", "shop", "shop-smtp")


def snapshot(*domains: DomainConfig) -> Snapshot:
    credential = CredentialConfig(
        username=LOGIN.name, domain="example.com", namespace="shop", secret="shop-smtp", hash="$argon2id$"
    )
    return Snapshot(domains={domain.domain: domain for domain in domains}, credentials={LOGIN.name: credential})


def domain(*subjects: Subject, addresses: tuple[str, ...] = ("*@example.com",), **more) -> DomainConfig:
    sender = Sender(name="app", subjects=subjects, addresses=addresses)
    return DomainConfig(**{"domain": "example.com", "namespace": "shop", "senders": (sender,), **more})


SECRET = Subject(kind="Secret", namespace="shop", name="shop-smtp")


def may(index: ConfigIndex, identity: Identity, address: str) -> bool:
    return index.rights(identity).find(parse_address(address)) is not None


PATTERNS = [
    ("*@example.com", "anything", True),
    ("app@example.com", "app", True),
    ("app@example.com", "APP", True),
    ("App@example.com", "app", True),
    ("app@example.com", "app2", False),
    ("app-*@example.com", "app-", True),
    ("app-*@example.com", "app-7", True),
    ("app-*@example.com", "xapp-7", False),
    ("*-app@example.com", "x-app", True),
    ("a*b*c@example.com", "aXbYc", True),
    ("a*b*c@example.com", "acb", False),
    ("a.b@example.com", "axb", False),
    ("a+*@example.com", "a+tag", True),
    ("{namespace}@example.com", "billing", True),
    ("{namespace}@example.com", "shop", False),
    ("{namespace}-{serviceaccount}@example.com", "billing-jobs", True),
    ("{namespace}-*@example.com", "billing-jobs", True),
    ("{namespace}-*@example.com", "other-jobs", False),
]


@pytest.mark.parametrize(("pattern", "local", "allowed"), PATTERNS)
def test_a_pattern_allows_what_it_says(pattern, local, allowed):
    identity = service_account("billing", "jobs")
    assert compile_patterns([pattern], identity).matches(local) is allowed


def test_a_placeholder_without_a_value_allows_nothing():
    login = compile_patterns(["{serviceaccount}*@example.com", "{namespace}@example.com"], LOGIN)
    assert not login.matches("anything")
    assert login.matches("shop")
    network = compile_patterns(["{namespace}*@example.com"], Identity("Network", "10.0.0.1"))
    assert not network.matches("")
    assert network.texts == ()


@given(st.lists(st.sampled_from(["a", "b", "*", ".", "+", "(", "[", "\\", "|", "^", "$"]), min_size=1, max_size=8))
def test_a_pattern_has_no_wildcard_but_the_star(parts):
    local = "".join(parts)
    pattern = compile_patterns([f"{local}@example.com"], LOGIN)
    assert pattern.matches(local)
    assert pattern.matches(local.replace("*", "anything"))
    assert pattern.matches(local + "x") is local.endswith("*")


def test_a_secret_sends_for_the_domains_of_its_own_namespace_that_list_it():
    elsewhere = domain(Subject(kind="Secret", namespace="shop", name="shop-smtp"), domain="other.org", namespace="evil")
    index = ConfigIndex(snapshot(domain(SECRET), elsewhere))
    assert may(index, LOGIN, "a@example.com")
    assert not may(index, LOGIN, "a@other.org")
    assert not may(index, LOGIN, "a@sub.example.com")
    assert index.rights(LOGIN).allowed == "*@example.com"


def test_a_revoked_credential_may_send_nothing_even_in_an_open_session():
    whole = snapshot(domain(SECRET))
    assert may(ConfigIndex(whole), LOGIN, "a@example.com")
    assert not may(ConfigIndex(Snapshot(domains=whole.domains)), LOGIN, "a@example.com")


def test_a_deleted_domain_is_nobodys():
    index = ConfigIndex(snapshot(domain(SECRET, Subject(kind="Network", cidr="10.0.0.0/8"), deleted=True)))
    assert index.credential("shop-smtp@example.com") is None
    assert index.network("10.0.0.1") is None
    assert index.rights(LOGIN).all == ()
    assert index.rights(LOGIN).allowed == "no address"


def test_a_login_is_found_in_any_case():
    index = ConfigIndex(snapshot(domain(SECRET)))
    assert index.credential("Shop-SMTP@Example.COM") is not None
    assert index.credential("nobody@example.com") is None


def test_a_service_account_sends_by_name_or_by_namespace():
    index = ConfigIndex(
        snapshot(
            domain(Subject(kind="ServiceAccount", namespace="billing", name="jobs")),
            domain(
                Subject(kind="Namespaces", namespaces=("billing", "shop")),
                domain="many.example",
                addresses=("{namespace}@many.example",),
            ),
        )
    )
    jobs = service_account("billing", "jobs")
    assert may(index, jobs, "any@example.com")
    assert may(index, jobs, "billing@many.example")
    assert not may(index, jobs, "shop@many.example")
    assert may(index, service_account("shop", "web"), "shop@many.example")
    assert not may(index, service_account("shop", "jobs"), "any@example.com")
    assert index.rights(service_account("other", "jobs")).all == ()


def test_private_and_loopback_peers_are_nobody_unless_a_network_lists_them():
    index = ConfigIndex(snapshot(domain(SECRET)))
    for address in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fe80::1"):
        assert index.network(address) is None


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.20.0.0", True),
        ("10.20.255.255", True),
        ("10.21.0.0", False),
        ("::ffff:10.20.1.1", True),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
        ("127.0.0.1", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_a_network_is_trusted_to_its_last_address(address, trusted):
    index = ConfigIndex(
        snapshot(domain(Subject(kind="Network", cidr="10.20.0.0/16"), Subject(kind="Network", cidr="2001:db8::/32")))
    )
    identity = index.network(address)
    assert (identity is not None) is trusted
    assert index.network(address) == identity
    if identity is not None:
        assert not identity.authenticated
        assert may(index, identity, "a@example.com")


def test_a_peer_of_several_networks_may_send_for_each():
    index = ConfigIndex(
        snapshot(
            domain(Subject(kind="Network", cidr="10.0.0.0/8")),
            domain(Subject(kind="Network", cidr="10.1.0.0/16"), domain="b.example", addresses=("x@b.example",)),
        )
    )
    identity = index.network("10.1.0.1")
    assert identity is not None
    assert may(index, identity, "a@example.com")
    assert may(index, identity, "x@b.example")
    other = index.network("10.2.0.1")
    assert other is not None
    assert not may(index, other, "x@b.example")


def test_the_least_limit_holds_and_says_whose_it_is():
    sender = Sender(
        name="app",
        subjects=(SECRET,),
        addresses=("*@example.com",),
        limits=Limits(message_size=1000, recipients_per_message=50, recipients_per_minute=5),
    )
    limited = domain(
        senders=(sender,), limits=Limits(message_size=2000, recipients_per_message=20, recipients_per_day=7)
    )
    right = ConfigIndex(snapshot(limited), Ceilings(message_size=1500, recipients_per_day=5)).rights(LOGIN).all[0]
    assert (right.message_size, right.size_of) == (1000, 'of sender "app" of example.com')
    assert (right.recipients_per_message, right.recipients_of) == (20, "of example.com")
    assert [(scope.key, scope.per_minute, scope.per_day) for scope in right.scopes] == [
        ("credential:shop-smtp@example.com:example.com/app", 5, None),
        ("domain:example.com", None, 5),
    ]


def test_without_limits_nothing_is_counted_and_the_ceiling_holds():
    right = ConfigIndex(snapshot(domain(SECRET)), Ceilings(message_size=1500)).rights(LOGIN).all[0]
    assert right.scopes == ()
    assert (right.message_size, right.size_of) == (1500, "of this server")


def test_all_peers_of_a_network_share_its_limit():
    sender = Sender(
        name="net",
        subjects=(Subject(kind="Network", cidr="10.0.0.0/8"),),
        addresses=("*@example.com",),
        limits=Limits(recipients_per_minute=5),
    )
    index = ConfigIndex(snapshot(domain(senders=(sender,))))
    keys = set()
    for address in ("10.0.0.1", "10.0.0.2"):
        identity = index.network(address)
        assert identity is not None
        keys.add(index.rights(identity).all[0].scopes[0].key)
    assert keys == {"network:example.com/net"}


def test_a_quoted_local_part_is_the_unquoted_one():
    index = ConfigIndex(snapshot(domain(SECRET, addresses=("app@example.com",))))
    assert may(index, LOGIN, '"app"@example.com')
    assert not may(index, LOGIN, '"app "@example.com')


def test_an_internationalised_domain_is_its_a_label():
    index = ConfigIndex(
        snapshot(domain(SECRET, domain="xn--bcher-kva.example", addresses=("*@xn--bcher-kva.example",)), domain(SECRET))
    )
    assert may(index, LOGIN, "a@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example")


def test_addresses_are_canonical():
    assert canonical_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert canonical_address("fe80::1%eth0") == "fe80::1"
    assert canonical_address("x") == ""


def test_what_is_remembered_of_peers_is_bounded():
    index = ConfigIndex(snapshot(domain(Subject(kind="Network", cidr="10.0.0.0/8"))))
    for number in range(20000):
        identity = index.network(f"10.0.{number // 256}.{number % 256}")
        assert identity is not None
        index.rights(identity)
    assert len(index._peers) <= 8192
    assert len(index._rights) <= 8192


def test_find_takes_the_entry_that_allows_the_address():
    senders = (
        Sender(name="one", subjects=(SECRET,), addresses=("one@example.com",)),
        Sender(name="two", subjects=(SECRET,), addresses=("two@example.com",)),
    )
    rights = ConfigIndex(snapshot(domain(senders=senders))).rights(LOGIN)
    found = rights.find(Address("two@example.com", "two", "example.com"))
    assert found is not None
    assert found.sender.name == "two"
    assert rights.allowed == "one@example.com, two@example.com"
