"""Who may send what to whom: never an open relay, and no address that routes."""

import pytest

from tests.ingress.lab import Lab, LabFactory, snapshot
from waypost_policy.index import ConfigIndex
from waypost_queue.config import Snapshot

LOGIN = "AUTH PLAIN AGFwcEBleGFtcGxlLnRlc3QAY29ycmVjdCBob3JzZQ=="


@pytest.fixture
async def stranger(make_lab: LabFactory) -> Lab:
    """Loopback is no sender here; logins are."""
    return await make_lab(config=snapshot(cidr="192.0.2.0/24"))


async def test_a_stranger_may_relay_to_nobody(stranger: Lab) -> None:
    client = await stranger.hello("mx")
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")
    for recipient in ("a@far.test", "a@example.test", "a@[127.0.0.1]", "postmaster@mx.lab.test"):
        reply = await client.say(f"RCPT TO:<{recipient}>")
        assert reply.startswith("550 5.7.1 ")
        assert recipient in reply
    assert (await client.say("DATA")).startswith("554 5.5.1 ")


@pytest.mark.parametrize("listener", ["submission", "submissions"])
async def test_submission_needs_a_login(stranger: Lab, listener: str) -> None:
    client = await stranger.hello(listener)
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("530 5.7.0 ")


async def test_a_login_gives_exactly_its_addresses_in_mail_from_and_header(stranger: Lab) -> None:
    client = await stranger.hello("submissions")
    assert (await client.say(LOGIN)).startswith("235 ")
    reply = await client.say("MAIL FROM:<boss@other.test>")
    assert reply.startswith("553 5.7.1 ")
    assert "boss@other.test" in reply
    assert "*@example.test" in reply
    await client.transaction()
    reply = await client.data(b"From: boss@other.test\r\n\r\nx\r\n")
    assert reply.startswith("553 5.7.1 ")
    assert "boss@other.test" in reply
    assert "app@example.test" in reply
    await client.transaction("")
    assert (await client.data(b"From: app@example.test\r\n\r\nx\r\n")).startswith("250 ")
    [mail] = await stranger.mails()
    assert (mail.sender, mail.domain, mail.tenant) == ("", "example.test", "shop")


async def test_a_configuration_that_changes_counts_from_the_next_mail_on(lab: Lab) -> None:
    client = await lab.hello("mx")
    await client.transaction()
    assert (await client.data(b"From: app@example.test\r\n\r\nx\r\n")).startswith("250 ")
    lab.index = ConfigIndex(Snapshot())
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")
    assert (await client.say("RCPT TO:<a@far.test>")).startswith("550 5.7.1 ")
    lab.index = ConfigIndex(snapshot())
    await client.say("RSET")
    await client.transaction()


async def test_a_network_is_not_trusted_while_everybody_comes_from_one_address(make_lab: LabFactory) -> None:
    lab = await make_lab(
        proxy_from="127.0.0.0/8", config=snapshot(cidr="192.0.2.0/24"), hidden_peers_after=5, greet_delay=0.0
    )
    for _ in range(5):
        client = await lab.connect()
        client.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 4000 25\r\n")
        await client.hello()
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")
    reply = await client.say("RCPT TO:<a@far.test>")
    assert reply.startswith("450 4.7.1 ")
    assert "192.0.2.7" in reply


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("MAIL FROM:<app@example.test", "501"),
        ("MAIL FROM:app@example.test>", "501"),
        ("MAIL FROM:<a..b@example.test>", "501"),
        ("MAIL FROM:<" + "x" * 65 + "@example.test>", "501"),
        ("MAIL FROM:<app@exam_ple..test>", "501"),
        ("MAIL FROM:<app%far.test@example.test>", "553"),
        ("MAIL FROM:<far.test!app@example.test>", "553"),
        ("MAIL FROM:<@relay.test,@other.test:app@example.test>", "250"),
        ("MAIL FROM: <app@example.test>", "250"),
        ("MAIL FROM:<>", "250"),
        ("MAIL app@example.test", "501"),
        ("MAIL", "501"),
    ],
)
async def test_paths_of_every_kind(lab: Lab, command: str, code: str) -> None:
    client = await lab.hello("mx")
    assert (await client.say(command))[:3] == code


async def test_a_source_route_is_stripped_from_what_is_stored(lab: Lab) -> None:
    client = await lab.hello("mx")
    await client.say("MAIL FROM:<app@example.test>")
    assert (await client.say("RCPT TO:<@relay.test:someone@far.test>")).startswith("250 ")
    assert (await client.data(b"From: app@example.test\r\n\r\nx\r\n")).startswith("250 ")
    [mail] = await lab.mails()
    assert mail.recipients[0].address == "someone@far.test"


@pytest.mark.parametrize("helo", ["a\tb", "x" * 256, "a b", "\u2028", "evil\x0bReceived: from x", "ok.test (comment)"])
async def test_a_name_that_could_break_a_header_is_refused(lab: Lab, helo: str) -> None:
    client = await lab.connect("mx")
    await client.reply()
    assert (await client.say(f"EHLO {helo}")).startswith("501 ")


async def test_a_loop_is_refused(lab: Lab) -> None:
    client = await lab.hello("mx")
    await client.transaction()
    trace = b"Received: from a.test by b.test; Mon, 02 Mar 2026 10:00:00 +0000\r\n" * 100
    assert (await client.data(trace + b"From: app@example.test\r\n\r\nx\r\n")).startswith("554 5.4.6 ")


async def test_return_path_is_never_passed_on(lab: Lab) -> None:
    client = await lab.hello("mx")
    await client.transaction()
    content = b"Return-Path: <evil@other.test>\r\nFrom: app@example.test\r\n\r\nReturn-Path: in the body\r\n"
    assert (await client.data(content)).startswith("250 ")
    [mail] = await lab.mails()
    assert b"evil@other.test" not in (mail.content or b"")
    assert (mail.content or b"").endswith(b"\r\n\r\nReturn-Path: in the body\r\n")
