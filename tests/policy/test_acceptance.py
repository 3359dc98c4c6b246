"""The decisions: never an open relay, both authors held against the sender's addresses, every limit with its reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_policy.acceptance import MAX_RECEIVED, Grant, Party, at_content, at_mail, at_rcpt
from waypost_policy.addresses import NULL_PATH, Address, parse_address
from waypost_policy.headers import Headers, scan
from waypost_policy.identity import Identity, service_account
from waypost_policy.index import Ceilings, ConfigIndex
from waypost_policy.limits import Limiter
from waypost_policy.replies import Answer
from waypost_queue.config import CredentialConfig, DomainConfig, Limits, Sender, Snapshot, Subject

NOW = 1767225600.0
LOGIN = Identity("Secret", "shop-smtp@example.com", "shop", "shop-smtp")
CREDENTIAL = CredentialConfig(username=LOGIN.name, domain="example.com", namespace="shop", secret="shop-smtp", hash="")
TO = parse_address("you@elsewhere.example")


def make_index(limits: Limits | None = None, ceilings: Ceilings | None = None) -> ConfigIndex:
    subjects = (Subject(kind="Secret", name="shop-smtp"), Subject(kind="Network", cidr="10.0.0.0/8"))
    example = DomainConfig(
        domain="example.com",
        namespace="shop",
        pool="warm",
        senders=(Sender(name="app", subjects=subjects, addresses=("*@example.com",), limits=limits or Limits()),),
    )
    second = DomainConfig(
        domain="second.example",
        namespace="shop",
        senders=(Sender(name="app", subjects=subjects, addresses=("news@second.example",)),),
    )
    victim = DomainConfig(domain="victim.example", namespace="web")
    domains = {config.domain: config for config in (example, second, victim)}
    return ConfigIndex(Snapshot(domains=domains, credentials={LOGIN.name: CREDENTIAL}), ceilings)


INDEX = make_index()


def party(identity: Identity | None = LOGIN, listener: str = "submission", hidden: str = "") -> Party:
    return Party(identity, listener, hidden)


def granted(answer: Grant | Answer) -> Grant:
    assert isinstance(answer, Grant), answer
    return answer


def refused(answer: object) -> Answer:
    assert isinstance(answer, Answer), answer
    return answer


def header(text: str) -> Headers:
    found = scan(text.encode() + b"\r\n\r\n")
    assert isinstance(found, Headers), found
    return found


def mail(sender: str = "app@example.com", index: ConfigIndex = INDEX, **more) -> Grant | Answer:
    address = parse_address(sender) if sender else NULL_PATH
    return at_mail(index, party(), address, **more)


def test_a_sender_may_use_its_addresses_and_the_grant_says_all_about_it():
    grant = granted(mail())
    assert (grant.domain, grant.tenant, grant.pool) == ("example.com", "shop", "warm")
    assert grant.credential == "shop-smtp@example.com"
    assert (grant.message_size, grant.recipients_per_message) == (25 * 1024 * 1024, 1000)


@pytest.mark.parametrize("listener", ["submission", "submissions", "http"])
def test_nobody_in_particular_is_asked_to_log_in(listener):
    answer = refused(at_mail(INDEX, party(None, listener), parse_address("app@example.com")))
    assert (answer.code, answer.enhanced) == (530, "5.7.0")


@pytest.mark.parametrize("sender", ["app@example.com", "a@victim.example", "x@y.example", ""])
@pytest.mark.parametrize("recipient", ["you@elsewhere.example", "a@example.com", "a@victim.example", "a@[127.0.0.1]"])
def test_nobody_in_particular_relays_to_nobody(sender, recipient):
    address = parse_address(sender) if sender else NULL_PATH
    grant = granted(at_mail(INDEX, party(None, "mx"), address))
    answer = refused(at_rcpt(grant, parse_address(recipient), 0, Limiter(), NOW))
    assert (answer.code, answer.enhanced) == (550, "5.7.1")
    assert recipient in answer.text
    assert refused(at_content(INDEX, grant, header("From: app@example.com"), 10, 1, Limiter(), NOW)).code == 530


@pytest.mark.parametrize("listener", ["mx", "submission", "submissions"])
def test_a_network_sender_relays_on_any_listener(listener):
    peer = INDEX.network("10.1.2.3")
    grant = granted(at_mail(INDEX, party(peer, listener), parse_address("app@example.com")))
    assert at_rcpt(grant, TO, 0, Limiter(), NOW) is None
    assert grant.credential == "10.1.2.3"


def test_a_network_whose_peers_are_hidden_is_told_so():
    why = "all 412 connections of the last hour came from 10.244.0.1"
    answer = refused(at_mail(INDEX, party(None, "submission", why), parse_address("app@example.com")))
    assert (answer.code, answer.enhanced) == (450, "4.7.1")
    assert why in answer.text
    grant = granted(at_mail(INDEX, party(None, "mx", why), parse_address("app@example.com")))
    assert refused(at_rcpt(grant, TO, 0, Limiter(), NOW)).name == "network_hidden"


def test_a_sender_may_not_use_anothers_address_and_both_are_named():
    answer = refused(mail("ceo@victim.example"))
    assert (answer.code, answer.enhanced) == (553, "5.7.1")
    for word in ("shop-smtp@example.com", "ceo@victim.example", "*@example.com"):
        assert word in answer.text


def test_an_account_that_is_no_sender_may_not_even_send_from_nobody():
    stranger = party(service_account("other", "web"))
    for address in (NULL_PATH, parse_address("app@example.com")):
        assert refused(at_mail(INDEX, stranger, address)).name == "sender_not_allowed"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("From: App <app@example.com>", ""),
        ("From: other@example.com", ""),
        ("From: News <news@second.example>", ""),
        ("From: a@example.com, news@second.example", ""),
        ("Subject: without a From", ""),
        ("From: ceo@victim.example", "from_not_allowed"),
        ("From: x@second.example", "from_not_allowed"),
        ("From: app@example.com, ceo@victim.example", "from_not_allowed"),
        ("From: ceo@victim.example <app@example.com>", "from_not_allowed"),
        ('From: "ceo@victim.example" <app@example.com>', ""),
        ("From: app@sub.example.com", "from_not_allowed"),
        ("From: j\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen@example.com", "from_needs_smtputf8"),
    ],
)
def test_every_author_in_the_header_is_held_against_the_senders_addresses(text, name):
    grant = granted(mail())
    answer = at_content(INDEX, grant, header(text), 100, 1, Limiter(), NOW)
    if not name:
        assert granted(answer) == grant
        return
    assert refused(answer).name == name
    if name == "from_not_allowed":
        assert answer.code == 553
        assert "shop-smtp@example.com" in answer.text
        assert "MAIL FROM is app@example.com" in answer.text


def test_a_utf8_author_is_taken_with_smtputf8():
    name = "j\N{LATIN SMALL LETTER U WITH DIAERESIS}rgen@example.com"
    assert refused(mail(name)).enhanced == "5.6.7"
    grant = granted(mail(name, smtputf8=True))
    granted(at_content(INDEX, grant, header(f"From: {name}"), 100, 1, Limiter(), NOW))
    plain = granted(mail())
    other = parse_address("b\N{LATIN SMALL LETTER U WITH DIAERESIS}rger@elsewhere.example")
    assert refused(at_rcpt(plain, other, 0, Limiter(), NOW)).code == 553
    assert at_rcpt(grant, other, 0, Limiter(), NOW) is None


def test_the_header_from_governs_what_comes_from_nobody():
    grant = granted(mail(""))
    assert (grant.domain, grant.scopes) == ("", ())
    final = granted(at_content(INDEX, grant, header("From: news@second.example"), 100, 1, Limiter(), NOW))
    assert (final.domain, final.tenant) == ("second.example", "shop")
    assert refused(at_content(INDEX, grant, header("Subject: x"), 100, 1, Limiter(), NOW)).name == "no_from"
    assert refused(at_content(INDEX, grant, header("From: a@victim.example"), 1, 1, Limiter(), NOW)).code == 553


def test_rates_hold_for_what_comes_from_nobody_too():
    index = make_index(Limits(recipients_per_minute=3))
    limiter = Limiter()
    grant = granted(mail("", index))
    for accepted in range(3):
        assert at_rcpt(grant, TO, accepted, limiter, NOW) is None
    assert refused(at_rcpt(grant, TO, 3, limiter, NOW)).name == "too_many_recipients"
    assert granted(at_content(index, grant, header("From: a@example.com"), 10, 3, limiter, NOW)).scopes
    answer = refused(at_content(index, grant, header("From: a@example.com"), 10, 1, limiter, NOW))
    assert (answer.code, answer.enhanced) == (450, "4.7.1")


def test_too_many_recipients_are_sent_another_time():
    index = make_index(Limits(recipients_per_message=2))
    grant = granted(mail(index=index))
    assert at_rcpt(grant, TO, 1, Limiter(), NOW) is None
    answer = refused(at_rcpt(grant, TO, 2, Limiter(), NOW))
    assert (answer.code, answer.enhanced) == (452, "4.5.3")
    assert '2 recipients a mail is the limit of sender "app" of example.com' in answer.text


def test_a_rate_says_what_was_exceeded_and_when_to_come_back():
    index = make_index(Limits(recipients_per_minute=2))
    limiter = Limiter()
    grant = granted(mail(index=index))
    assert at_rcpt(grant, TO, 0, limiter, NOW) is None
    assert at_rcpt(grant, TO, 1, limiter, NOW) is None
    answer = refused(at_rcpt(grant, TO, 2, limiter, NOW))
    assert (answer.code, answer.enhanced) == (450, "4.7.1")
    assert "shop-smtp@example.com has reached 2 recipients a minute" in answer.text
    assert answer.text.endswith(" s")


def test_a_server_may_limit_each_address():
    index = make_index(ceilings=Ceilings(address_recipients_per_minute=1))
    limiter = Limiter()
    assert at_rcpt(granted(mail("a@example.com", index)), TO, 0, limiter, NOW) is None
    assert refused(at_rcpt(granted(mail("A@example.com", index)), TO, 0, limiter, NOW)).code == 450
    assert at_rcpt(granted(mail("b@example.com", index)), TO, 0, limiter, NOW) is None


def test_size_is_refused_at_mail_and_at_the_content():
    index = make_index(Limits(message_size=1000))
    answer = refused(mail(index=index, size=1001))
    assert (answer.code, answer.enhanced) == (552, "5.3.4")
    assert "1000 octets, the limit of sender" in answer.text
    grant = granted(mail(index=index, size=1000))
    assert refused(at_content(index, grant, header("A: b"), 1001, 1, Limiter(), NOW)).code == 552
    granted(at_content(index, grant, header("A: b"), 1000, 1, Limiter(), NOW))
    assert refused(mail("", index, size=1001)).code == 552


def test_a_loop_is_recognised_by_its_received_headers():
    grant = granted(mail())
    lines = "Received: from a by b; now\r\n"
    granted(at_content(INDEX, grant, header(lines * (MAX_RECEIVED - 1) + "A: b"), 1, 1, Limiter(), NOW))
    answer = refused(at_content(INDEX, grant, header(lines * MAX_RECEIVED + "A: b"), 1, 1, Limiter(), NOW))
    assert (answer.code, answer.enhanced) == (554, "5.4.6")


def test_a_configuration_that_changes_meanwhile_is_the_one_that_counts():
    grant = granted(mail())
    without = ConfigIndex(Snapshot(credentials={LOGIN.name: CREDENTIAL}))
    assert refused(at_content(without, grant, header("From: app@example.com"), 1, 1, Limiter(), NOW)).code == 553


addresses = st.sampled_from(
    ["app@example.com", "ceo@victim.example", "news@second.example", "x@second.example", "a@elsewhere.example", ""]
)


@given(
    st.sampled_from([None, LOGIN, Identity("Network", "10.0.0.1"), service_account("shop", "web")]),
    st.sampled_from(["mx", "submission", "submissions", "http"]),
    addresses,
    st.lists(addresses.filter(bool), max_size=3),
)
def test_what_comes_in_is_always_an_identitys_own(identity, listener, sender, shown):
    """Whatever is asked for: accepted means that every address belongs to an identity."""
    grant = at_mail(INDEX, party(identity, listener), parse_address(sender) if sender else NULL_PATH)
    if isinstance(grant, Answer) or at_rcpt(grant, TO, 0, Limiter(), NOW) is not None:
        return
    found = header(f"From: {', '.join(shown)}") if shown else header("A: b")
    final = at_content(INDEX, grant, found, 1, 1, Limiter(), NOW)
    if isinstance(final, Answer):
        return
    assert identity in (LOGIN, Identity("Network", "10.0.0.1"))
    assert {sender, *shown} - {""} <= {"app@example.com", "news@second.example"}
    assert final.domain == (sender or shown[0]).rpartition("@")[2]
    assert final.tenant == "shop"


def test_address_equality_ignores_how_the_domain_is_written():
    assert granted(at_mail(INDEX, party(), Address("App@EXAMPLE.com", "App", "example.com"))).domain == "example.com"
