"""Resources to configuration: what is in force, what is not and why."""

import pytest

from tests.config.support import compiled, domain, fact, manifests, namespace, policy, secret
from waypost_config.compiler import Settings, compile_manifests
from waypost_config.credentials import WantedSecret
from waypost_queue import config

SECRET_SENDER = "[{name: app, subjects: [{kind: Secret, name: login}]}]"
LOGIN = secret("login", username="App@example.com", password="geheim")


def test_a_domain_is_compiled_with_its_units() -> None:
    result = compiled(
        domain(
            suspend="Outbound",
            limits="{messageSize: 25Mi, recipientsPerDay: 100}",
            outbound="{tls: Encrypted, pool: bulk, retry: {initial: 1m, expireAfter: 5h30m}}",
        )
    )
    found = result.snapshot.domains["example.com"]
    assert (found.namespace, found.suspend, found.pool, found.tls) == ("shop", "Outbound", "bulk", "Encrypted")
    assert found.limits == config.Limits(message_size=25 << 20, recipients_per_day=100)
    assert found.retry == config.Retry(initial=60.0, max=14400.0, expire_after=19800.0, notify_delay_after=14400.0)
    assert result.problems == []


def test_nobody_may_send_by_default() -> None:
    assert compiled(domain()).snapshot.domains["example.com"].senders == ()


def test_each_kind_of_subject_is_compiled() -> None:
    subjects = (
        "[{kind: ServiceAccount, name: web}, {kind: ServiceAccount, name: jobs, namespace: billing}, "
        "{kind: Network, cidr: 10.20.1.2/16}, {kind: Namespaces, selector: {matchLabels: {mail: allowed}}}]"
    )
    text = domain(senders=f"[{{name: a, subjects: {subjects}}}]") + namespace("one", labels="mail: allowed")
    (sender,) = compiled(text + namespace("two")).snapshot.domains["example.com"].senders
    assert sender.subjects == (
        config.Subject(kind="ServiceAccount", namespace="shop", name="web"),
        config.Subject(kind="ServiceAccount", namespace="billing", name="jobs"),
        config.Subject(kind="Network", cidr="10.20.0.0/16"),
        config.Subject(kind="Namespaces", namespaces=("one",)),
    )
    assert sender.addresses == ("*@example.com",)


def test_a_namespace_can_be_selected_by_its_name() -> None:
    selector = "{matchLabels: {kubernetes.io/metadata.name: two}}"
    text = domain(senders=f"[{{name: a, subjects: [{{kind: Namespaces, selector: {selector}}}]}}]")
    (sender,) = compiled(text + namespace("one") + namespace("two")).snapshot.domains["example.com"].senders
    assert sender.subjects[0].namespaces == ("two",)


def test_a_secret_becomes_a_login_with_a_lower_case_name() -> None:
    result = compiled(domain(senders=SECRET_SENDER) + LOGIN)
    assert result.snapshot.credentials == {
        "app@example.com": config.CredentialConfig(
            username="app@example.com",
            domain="example.com",
            namespace="shop",
            secret="login",
            hash="app@example.com:geheim",
        )
    }
    assert fact(result, "example.com", "SendersReady").status == "True"


def test_a_secret_that_nobody_made_is_wanted() -> None:
    result = compiled(domain(senders=SECRET_SENDER))
    assert result.wanted_secrets == (WantedSecret("shop", "login", "login@example.com", "example.com"),)
    assert fact(result, "example.com", "SendersReady").status == "Unknown"


def test_no_secret_is_wanted_while_a_manifest_that_may_hold_it_cannot_be_read() -> None:
    found, _ = manifests(domain(senders=SECRET_SENDER) + "---\na: [1\n")
    result = compile_manifests(found, settings=Settings(), hash_password=lambda _user, _password: "")
    assert result.wanted_secrets == ()
    assert "is not made while a manifest can't be read: m.yaml" in fact(result, "example.com", "SendersReady").message


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"username": "app@other.example", "password": "p"}, "must end in @example.com"),
        ({"username": "@example.com", "password": "p"}, "must end in @example.com"),
        ({"username": "app@example.com"}, "key password is missing or empty; it has username"),
        ({"username": "app@example.com", "password": "geheim\\n"}, "ends in a line break"),
        ({"username": "app@example.com", "password": "ge\\0heim"}, "printable text"),
        ({"username": "app@example.com", "password": "x" * 1025}, "at most 1024 octets"),
    ],
)
def test_a_secret_that_is_no_login_is_said_and_the_domain_goes_on(values: dict[str, str], says: str) -> None:
    result = compiled(domain(senders=SECRET_SENDER) + secret("login", **values))
    found = fact(result, "example.com", "SendersReady")
    assert (found.status, found.reason) == ("False", "SecretInvalid")
    assert says in found.message
    assert "geheim" not in found.message
    assert "example.com" in result.snapshot.domains
    assert result.snapshot.credentials == {}


def test_a_login_stays_in_force_when_its_secret_becomes_bad() -> None:
    before = compiled(domain(senders=SECRET_SENDER) + LOGIN).snapshot
    bad = secret("login", username="app@example.com")
    result = compiled(domain(senders=SECRET_SENDER) + bad, previous=before)
    assert result.snapshot.credentials == before.credentials
    assert "Its last good login stays in force." in fact(result, "example.com", "SendersReady").message


def test_a_login_goes_when_no_sender_names_its_secret_any_more() -> None:
    before = compiled(domain(senders=SECRET_SENDER) + LOGIN).snapshot
    assert compiled(domain() + LOGIN, previous=before).snapshot.credentials == {}


def test_two_secrets_of_one_user_name_do_not_both_become_logins() -> None:
    senders = "[{name: a, subjects: [{kind: Secret, name: login}, {kind: Secret, name: other}]}]"
    other = secret("other", username="app@example.com", password="x")
    result = compiled(domain(senders=senders) + LOGIN + other)
    assert result.snapshot.credentials["app@example.com"].secret == "login"
    assert "is that of Secret shop/login" in fact(result, "example.com", "SendersReady").message


def test_the_older_of_two_claims_holds() -> None:
    text = domain(namespace="a", created="2026-05-01T00:00:00Z") + domain(
        namespace="web", created="2026-03-02T00:00:00Z"
    )
    result = compiled(text)
    assert result.snapshot.domains["example.com"].namespace == "web"
    (lost,) = [facts[0] for key, facts in result.facts.items() if key.namespace == "a"]
    assert lost.reason == "DomainConflict"
    assert lost.message == (
        "example.com is held by MailDomain web/example.com (2026-03-02, older). "
        "Delete one, or have web/example.com list your ServiceAccount under senders."
    )


def test_of_two_claims_without_age_namespace_and_name_decide() -> None:
    assert compiled(domain(namespace="b") + domain(namespace="a")).snapshot.domains["example.com"].namespace == "a"


def test_a_delegated_cluster_takes_no_other_domains() -> None:
    home = namespace("shop", annotations='waypost.dev/domains: "example.com, *.shop.example.net"')
    result = compiled(domain() + domain("a.shop.example.net") + domain("evil.org") + home, tenancy="Delegated")
    assert sorted(result.snapshot.domains) == ["a.shop.example.net", "example.com"]
    refused = fact(result, "evil.org", "Accepted")
    assert refused.reason == "DomainNotDelegated"
    assert "namespace shop may not claim evil.org; it is delegated [example.com, *.shop.example.net]" in refused.message


def test_a_pool_that_the_namespace_may_not_use_is_refused() -> None:
    home = namespace("shop", annotations="waypost.dev/pools: warm")
    assert compiled(domain(outbound="{pool: warm}") + home).snapshot.domains
    result = compiled(domain(outbound="{pool: bulk}") + home)
    assert result.snapshot.domains == {}
    assert fact(result, "example.com", "Accepted").reason == "PoolNotAllowed"


def test_a_pool_that_may_not_be_used_leaves_the_former_configuration_in_force() -> None:
    home = namespace("shop", annotations="waypost.dev/pools: warm")
    before = compiled(domain(senders=SECRET_SENDER) + LOGIN + home).snapshot
    result = compiled(domain(senders=SECRET_SENDER, outbound="{pool: bulk}") + LOGIN + home, previous=before)
    assert result.snapshot == before
    assert fact(result, "example.com", "Accepted").message.endswith("Generation 0 stays in force.")


def test_a_pool_that_was_taken_away_is_used_no_more() -> None:
    text = domain(outbound="{pool: warm}")
    before = compiled(text + namespace("shop", annotations="waypost.dev/pools: warm")).snapshot
    assert before.domains
    result = compiled(text + namespace("shop", annotations="waypost.dev/pools: cold"), previous=before)
    assert result.snapshot.domains == {}


def test_a_pool_that_does_not_exist_leaves_the_former_configuration_in_force() -> None:
    before = compiled(domain(senders=SECRET_SENDER) + LOGIN, pools=("default",)).snapshot
    text = domain(senders=SECRET_SENDER, outbound="{pool: warm}") + LOGIN
    result = compiled(text, previous=before, pools=("default",))
    assert result.snapshot == before
    found = fact(result, "example.com", "OutboundReady")
    assert found.message == "Pool warm does not exist; there is default. Generation 0 stays in force."


def test_a_smarthost_password_goes_to_the_keys_and_not_into_the_configuration() -> None:
    route = "{route: {type: Smarthost, smarthost: {host: relay.example, secretRef: {name: relay}}}}"
    result = compiled(domain(outbound=route) + secret("relay", username="U", password="geheim"))
    smarthost = result.snapshot.domains["example.com"].route.smarthost
    assert smarthost == config.Smarthost(host="relay.example", username="U", secret="smarthost.shop.relay")
    assert result.keys == {"smarthost.shop.relay": "geheim"}
    assert "geheim" not in repr(result)


def test_a_smarthost_whose_secret_is_missing_is_never_used_without() -> None:
    route = "{route: {type: Smarthost, smarthost: {host: relay.example, secretRef: {name: relay}}}}"
    result = compiled(domain(outbound=route))
    smarthost = result.snapshot.domains["example.com"].route.smarthost
    assert smarthost is not None
    assert smarthost.secret == "smarthost.shop.relay"
    assert result.keys == {}
    assert fact(result, "example.com", "OutboundReady").reason == "SecretNotFound"


def test_a_policy_is_compiled() -> None:
    result = compiled(
        policy(
            "outlook",
            match='{domains: [hotmail.com], mx: ["*.protection.outlook.com"]}',
            state="Suspended",
            limits="{connections: 20, adaptive: Disabled}",
            tls="Encrypted",
            ipFamilies="[IPv4]",
            retry="{initial: 15m}",
            route="{type: Smarthost, smarthost: {host: gw.corp.example}}",
        )
    )
    assert result.snapshot.policies["outlook"] == config.DestinationConfig(
        name="outlook",
        domains=("hotmail.com",),
        mx=("*.protection.outlook.com",),
        suspended=True,
        limits=config.DestinationLimits(connections=20, adaptive=False),
        tls="Encrypted",
        ip_families=("IPv4",),
        retry=config.RetryOverride(initial=900.0),
        route=config.Route(type="Smarthost", smarthost=config.Smarthost(host="gw.corp.example")),
    )


def test_a_policy_overrules_nothing_that_it_does_not_say() -> None:
    found = compiled(policy("p", match="{domains: [a.example]}")).snapshot.policies["p"]
    assert found == config.DestinationConfig(name="p", domains=("a.example",))


def test_the_younger_of_two_policies_for_the_same_is_shadowed() -> None:
    text = policy("b", created="2026-01-01T00:00:00Z", match="{domains: [a.example]}")
    text += policy("a", created="2026-02-01T00:00:00Z", match="{domains: [a.example]}")
    text += policy("c", created="2026-03-01T00:00:00Z", match="{domains: [a.example, c.example]}")
    result = compiled(text)
    assert sorted(result.snapshot.policies) == ["b", "c"]
    assert fact(result, "a", "Accepted").reason == "Shadowed"
    assert result.snapshot.policies["c"].domains == ("c.example",)
    partly = fact(result, "c", "Accepted")
    assert (partly.status, partly.reason) == ("True", "PartlyShadowed")


def test_a_policy_with_an_unknown_pool_is_not_in_force() -> None:
    result = compiled(policy("p", match="{mx: [mx.example.com]}", pool="warm"), pools=("default",))
    assert result.snapshot.policies == {}
    assert fact(result, "p", "Accepted").reason == "PoolNotFound"


def test_the_generation_grows_with_each_change_and_with_nothing_else() -> None:
    first = compiled(domain()).snapshot
    assert first.meta.generation == 1
    assert compiled(domain(), previous=first).snapshot.meta.generation == 1
    second = compiled(domain(suspend="All"), previous=first).snapshot
    assert second.meta.generation == 2
    assert compiled(domain(suspend="All"), previous=second, jwks="{}").snapshot.meta.generation == 3
    assert compiled("", previous=second).snapshot.meta.generation == 3


def test_a_deleted_domain_of_the_past_is_no_change() -> None:
    gone = config.DomainConfig(domain="gone.example", namespace="x", deleted=True)
    first = compiled(domain()).snapshot
    before = config.Snapshot(domains={**first.domains, "gone.example": gone}, meta=first.meta)
    assert compiled(domain(), previous=before).snapshot.meta.generation == 1


PARTNER = "{domains: [partner.example]}"
GATEWAY = "{type: Smarthost, smarthost: {host: gw.example, secretRef: {name: gw}}}"


def test_a_policy_whose_secret_is_missing_never_lets_mail_pass_by_its_smarthost() -> None:
    result = compiled(policy("partner", match=PARTNER, route=GATEWAY))
    route = result.snapshot.policies["partner"].route
    assert route is not None
    assert route.smarthost == config.Smarthost(host="gw.example", secret="smarthost.default.gw")
    found = fact(result, "partner", "Accepted")
    assert (found.status, found.reason) == ("False", "SecretNotFound")
    assert found.message.endswith("Mail for these destinations waits until it is there.")


def test_a_policy_keeps_its_last_good_version_while_its_secret_is_missing() -> None:
    text = policy("partner", match=PARTNER, route=GATEWAY)
    before = compiled(text + secret("gw", "default", username="u", password="p")).snapshot
    result = compiled(text, previous=before)
    assert result.snapshot == before
