"""TLS towards next hops: opportunistic, required, verified for smarthosts, and never mixed with plaintext."""

import asyncio
import base64
import ssl

import pytest
from pydantic import SecretStr

from tests.delivery.transport_lab import SHORT, Lab
from tests.support.certs import Authority
from tests.support.nexthop import DEAF, DROP, EXTENSIONS, NextHop
from waypost_delivery.tls import TlsPolicy, policy
from waypost_delivery.transport import DeliveryPlan
from waypost_queue.config import Route, Smarthost

PASSWORD = "correct-horse-battery"
ENCRYPTED = DeliveryPlan(tls="Encrypted")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def hop(authority):
    async with NextHop(tls=authority.server_context("mx.remote.test")) as hop:
        yield hop


@pytest.fixture
async def lab(hop):
    async with Lab(hop.port) as lab:
        yield lab


def result(attempted):
    return attempted.results[0].result


def smarthost(hop, *, tls="StartTLS", host="mx.remote.test", username="user@shop.test"):
    return DeliveryPlan(
        route=Route(type="Smarthost", smarthost=Smarthost(host=host, port=hop.port, tls=tls, username=username)),
        password=SecretStr(PASSWORD),
        timeouts=SHORT,
    )


async def test_starttls_is_taken_where_it_is_offered_whatever_the_certificate(hop, lab):
    attempted = await lab.deliver()
    assert result(attempted) == "delivered"
    assert attempted.tls.startswith("TLSv1.3 ")
    assert "verified" not in attempted.tls
    assert hop.received[0].tls
    assert hop.commands[:3] == ["EHLO relay.shop.test", "STARTTLS", "EHLO relay.shop.test"]


async def test_an_encrypted_connection_is_reused_and_carries_large_content(hop, lab):
    content = b"A: b\r\n\r\n" + b".x\r\n" * 300_000
    for _ in range(2):
        assert result(await lab.deliver(content=content)) == "delivered"
    # Not compared as a list: pytest would work for minutes on the difference.
    assert len(hop.received) == 2
    assert all(mail.content == content and mail.tls for mail in hop.received)
    assert len(hop.sessions) == 1


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 65_538, 131_072, 131_074, 5_000_000])
async def test_content_of_any_size_goes_over_tls_without_a_stop(hop, lab, size):
    content = (b"x" * 70 + b"\r\n") * (size // 72) + b"y" * (size % 72 - 2) + b"\r\n"
    async with asyncio.timeout(30):
        assert result(await lab.deliver(content=content)) == "delivered"
    assert (len(hop.received[0].content), hop.received[0].content == content) == (len(content), True)


async def test_an_encrypted_next_hop_that_takes_in_no_more_of_the_content_defers_it(hop, lab):
    hop.on["data"] = DEAF
    async with asyncio.timeout(30):
        attempted = await lab.deliver(content=b"A: b\r\n\r\n" + b"x" * 20_000_000, plan=DeliveryPlan(timeouts=SHORT))
    assert result(attempted) == "deferred"
    assert "takes in no more" in attempted.results[0].reply.text
    assert not hop.received


async def test_a_failed_handshake_falls_back_to_plaintext_when_opportunistic_and_is_remembered(hop, lab):
    hop.tls = _no_common_version(hop.tls)
    attempted = await lab.deliver()
    assert result(attempted) == "delivered"
    assert attempted.tls == ""
    assert any("again without TLS" in line.text for line in attempted.dialogue)
    await lab.deliver(plan=DeliveryPlan(ehlo="other.shop.test"))
    assert [line for line in hop.commands if line == "STARTTLS"] == ["STARTTLS"]


async def test_a_failed_handshake_defers_when_tls_is_required(hop, lab):
    hop.tls = _no_common_version(hop.tls)
    attempted = await lab.deliver(plan=ENCRYPTED)
    assert result(attempted) == "deferred"
    assert attempted.results[0].reply.enhanced == "4.7.5"
    assert not hop.received


async def test_no_starttls_defers_when_tls_is_required(hop, lab):
    hop.tls = None
    attempted = await lab.deliver(plan=ENCRYPTED)
    assert result(attempted) == "deferred"
    assert attempted.results[0].reply.enhanced == "4.7.4"
    assert not any(line.startswith("MAIL") for line in hop.commands)
    assert result(await lab.deliver()) == "delivered"


async def test_a_refused_starttls_goes_on_in_plaintext_only_when_opportunistic(hop, lab):
    hop.on["starttls"] = "454 4.7.0 not now"
    assert result(await lab.deliver(plan=ENCRYPTED)) == "deferred"
    assert not hop.received
    attempted = await lab.deliver()
    assert (result(attempted), attempted.tls) == ("delivered", "")
    assert len(hop.sessions) == 2


async def test_a_plaintext_connection_is_not_reused_where_tls_is_required(hop, lab):
    hop.tls = None
    assert result(await lab.deliver()) == "delivered"
    assert result(await lab.deliver(plan=ENCRYPTED)) == "deferred"


async def test_a_connection_dropped_in_the_handshake_falls_back_too(hop, lab):
    hop.on["starttls"] = [DROP]
    assert result(await lab.deliver()) in ("delivered", "deferred")
    assert result(await lab.deliver()) == "delivered"


@pytest.mark.parametrize(
    "injected",
    [b"250-mx.remote.test\r\n250 SIZE 1\r\n", b"250 mx.remote.test\r\n", b"250-mx.rem", b"554 5.7.1 injected\r\n"],
)
async def test_plaintext_sent_before_the_handshake_is_never_taken_for_an_answer(hop, lab, injected):
    hop.on["starttls"] = b"220 2.0.0 go\r\n" + injected
    attempted = await lab.deliver(plan=DeliveryPlan(tls="Encrypted", timeouts=SHORT))
    assert result(attempted) in ("deferred", "delivered")
    if result(attempted) == "delivered":  # a part of a line: thrown away, and TLS went on
        assert injected == b"250-mx.rem"
        assert attempted.tls
    assert not any("injected" in outcome.reply.text for outcome in attempted.results.values())


async def test_a_smarthost_that_gets_a_password_is_verified(hop, authority):
    hop.extensions = (*EXTENSIONS, "AUTH PLAIN")
    async with Lab(hop.port, ca_file=str(authority.ca)) as lab:
        attempted = await lab.deliver(plan=smarthost(hop))
        assert result(attempted) == "delivered"
        assert attempted.tls.endswith(", verified")


async def test_credentials_never_go_to_a_host_that_is_not_who_it_should_be(hop, authority):
    hop.extensions = (*EXTENSIONS, "AUTH PLAIN")
    async with Lab(hop.port, "other.test", ca_file=str(authority.ca)) as lab:
        attempted = await lab.deliver("to@other.test", plan=smarthost(hop, host="mx.other.test"))
        assert result(attempted) == "deferred"
        assert "certificate" in attempted.results[0].reply.text
    async with Lab(hop.port) as lab:  # a CA that nobody trusts
        assert result(await lab.deliver(plan=smarthost(hop))) == "deferred"
    assert not any(line.startswith("AUTH") for line in hop.commands)


PLAIN = base64.b64encode(f"\0user@shop.test\0{PASSWORD}".encode()).decode()
LOGIN = [base64.b64encode(word.encode()).decode() for word in ("user@shop.test", PASSWORD)]


@pytest.mark.parametrize(
    ("offered", "said"),
    [
        ("AUTH PLAIN LOGIN", [f"AUTH PLAIN {PLAIN}"]),
        ("AUTH LOGIN", ["AUTH LOGIN", *LOGIN]),
        ("AUTH=PLAIN", [f"AUTH PLAIN {PLAIN}"]),
    ],
)
async def test_auth_is_plain_or_login_and_is_in_no_dialogue(hop, authority, offered, said):
    hop.extensions = (*EXTENSIONS, offered)
    async with Lab(hop.port, ca_file=str(authority.ca)) as lab:
        attempted = await lab.deliver(plan=smarthost(hop))
        assert result(attempted) == "delivered"
        position = hop.commands.index(said[0])
        assert hop.commands[position : position + len(said)] == said
        told = repr(attempted) + repr(smarthost(hop))
        assert "as user@shop.test" in told
        for secret in (PASSWORD, PLAIN, *LOGIN):
            assert secret not in told


async def test_a_refused_login_defers_since_it_is_ours_to_mend(hop, authority):
    hop.extensions = (*EXTENSIONS, "AUTH PLAIN")
    hop.on["auth"] = "535 5.7.8 wrong password"
    async with Lab(hop.port, ca_file=str(authority.ca)) as lab:
        attempted = await lab.deliver(plan=smarthost(hop))
        assert result(attempted) == "deferred"
        assert (attempted.results[0].reply.code, attempted.results[0].reply.text) == (535, "wrong password")
        assert not hop.received


@pytest.mark.parametrize("line", [PLAIN, LOGIN[1], PASSWORD])
async def test_a_host_that_repeats_the_login_does_not_put_it_into_the_history(hop, authority, line):
    hop.extensions = (*EXTENSIONS, "AUTH PLAIN")
    hop.on["auth"] = f"501-5.5.4 what is\r\n501 5.5.4 {line} for a word?"
    async with Lab(hop.port, ca_file=str(authority.ca)) as lab:
        attempted = await lab.deliver(plan=smarthost(hop))
        assert result(attempted) == "deferred"
        assert attempted.results[0].reply.text == "what is [...] for a word?"
        assert line not in repr(attempted)


async def test_implicit_tls_carries_large_content(authority):
    tls = authority.server_context("mx.remote.test")
    async with NextHop(tls=tls, implicit=True) as hop, Lab(hop.port, ca_file=str(authority.ca)) as lab:
        content = b"A: b\r\n\r\n" + b"x" * 3_000_000 + b"\r\n"
        async with asyncio.timeout(30):
            attempted = await lab.deliver(content=content, plan=smarthost(hop, tls="Implicit", username=""))
        assert result(attempted) == "delivered"
        assert hop.received[0].content == content or pytest.fail("it arrived changed")


async def test_implicit_tls_speaks_no_word_in_plaintext(authority):
    tls = authority.server_context("mx.remote.test")
    async with NextHop(tls=tls, implicit=True) as hop, Lab(hop.port, ca_file=str(authority.ca)) as lab:
        attempted = await lab.deliver(plan=smarthost(hop, tls="Implicit", username=""))
        assert result(attempted) == "delivered"
        assert attempted.tls.startswith("TLSv1.3")
        assert "STARTTLS" not in hop.commands


async def test_a_smarthost_without_tls_gets_none(hop, lab):
    attempted = await lab.deliver(plan=smarthost(hop, tls="None", username=""))
    assert (result(attempted), attempted.tls) == ("delivered", "")
    assert "STARTTLS" not in hop.commands


def test_the_policy_of_a_route_is_the_smarthost_s_own_else_the_floor():
    assert policy("Opportunistic", None) == TlsPolicy("opportunistic")
    assert policy("Encrypted", None) == TlsPolicy("required")
    assert policy("Opportunistic", Smarthost(host="x", tls="StartTLS")) == TlsPolicy("required")
    assert policy("Opportunistic", Smarthost(host="x", username="u")) == TlsPolicy("required", verify=True)
    assert policy("Opportunistic", Smarthost(host="x", tls="Implicit", username="u")) == TlsPolicy("implicit", True)
    assert policy("Opportunistic", Smarthost(host="x", tls="None")) == TlsPolicy("none")


def _no_common_version(context):
    """A server that can agree with no client of ours."""
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("PSK-AES128-GCM-SHA256")
    return context
