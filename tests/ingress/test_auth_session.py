"""AUTH on the wire: over TLS alone, every mechanism, what a login may then send as, and that nobody else relays."""

import asyncio
import base64
import smtplib
from pathlib import Path

import msgspec
import pytest

from tests.ingress.lab import PASSWORD, Client, Lab, LabFactory, snapshot
from waypost_config import devtoken
from waypost_ingress.auth import Authenticator, LockoutRules, Lockouts
from waypost_queue.config import Meta, Snapshot, Subject

STRANGERS = "203.0.113.0/24"  # a Network sender that no test comes from: loopback is nobody here
LOGIN = "app@example.test"
MAIL = b"From: App <app@example.test>\r\nSubject: hello\r\n\r\nbody\r\n"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def plain(password: str = PASSWORD, user: str = LOGIN) -> str:
    return "AUTH PLAIN " + b64(f"\0{user}\0{password}")


def with_tokens(folder: Path) -> tuple[Snapshot, str]:
    """A configuration that lets ServiceAccount shop/web send, and a token of it."""
    pem = devtoken.load_or_create(folder / "dev.pem")
    config = snapshot(STRANGERS)
    domain = config.domains["example.test"]
    account = Subject(kind="ServiceAccount", namespace="shop", name="web")
    [sender] = domain.senders
    senders = (msgspec.structs.replace(sender, subjects=(*sender.subjects, account)),)
    return (
        Snapshot(
            domains={"example.test": msgspec.structs.replace(domain, senders=senders)},
            credentials=config.credentials,
            meta=Meta(jwks=devtoken.jwks(pem), issuer=devtoken.ISSUER),
        ),
        devtoken.mint(pem, "shop", "web"),
    )


@pytest.fixture
async def closed(make_lab: LabFactory) -> Lab:
    """An ingress to which loopback is nobody."""
    return await make_lab(config=snapshot(STRANGERS))


async def secure(lab: Lab) -> Client:
    """A session on submission that has said STARTTLS and EHLO."""
    client = await lab.hello("submission")
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls(lab.authority.client_context())
    assert "AUTH PLAIN LOGIN OAUTHBEARER XOAUTH2" in await client.say("EHLO client.test")
    return client


async def test_auth_is_neither_offered_nor_taken_in_the_clear(closed: Lab) -> None:
    client = await closed.connect("submission")
    assert "AUTH" not in await client.hello()
    assert (await client.say(plain())).startswith("538 5.7.11 ")


async def test_a_login_sends_and_the_mail_says_by_whom(closed: Lab) -> None:
    client = await secure(closed)
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("530 5.7.0 ")
    assert (await client.say(plain())).startswith("235 2.7.0 ")
    await client.transaction()
    assert (await client.data(MAIL)).startswith("250 2.0.0 Ok: queued as ")
    [mail] = await closed.mails()
    assert (mail.credential, mail.tenant, mail.domain) == (LOGIN, "shop", "example.test")
    assert mail.content is not None
    received, _, rest = mail.content.partition(b"Message-ID: ")
    assert b"with ESMTPSA id " + mail.id.encode() in received
    assert b"(version=TLSv1.3 cipher=" in received
    assert b"\r\nDate: " in rest
    assert mail.content.endswith(MAIL)


@pytest.mark.parametrize("port", ["submission", "submissions"])
async def test_smtplib_logs_in_and_sends(closed: Lab, port: str) -> None:
    context = closed.authority.client_context()

    def send() -> None:
        if port == "submissions":
            client: smtplib.SMTP = smtplib.SMTP_SSL("localhost", closed.ports[port], context=context, timeout=5)
        else:
            client = smtplib.SMTP("localhost", closed.ports[port], timeout=5)
        with client:
            if port == "submission":
                client.starttls(context=context)
            client.login(LOGIN, PASSWORD)
            client.sendmail(LOGIN, ["you@far.test"], MAIL)

    await asyncio.to_thread(send)
    assert len(await closed.mails()) == 1


async def test_login_is_asked_in_two_steps(closed: Lab) -> None:
    client = await secure(closed)
    assert await client.say("AUTH LOGIN") == "334 VXNlcm5hbWU6"
    assert await client.say(b64(LOGIN)) == "334 UGFzc3dvcmQ6"
    assert (await client.say(b64(PASSWORD))).startswith("235 ")
    assert (await client.say(plain())).startswith("503 ")  # once a session, RFC 4954 4


async def test_a_service_accounts_token_is_taken_by_every_mechanism(make_lab: LabFactory, tmp_path: Path) -> None:
    config, token = with_tokens(tmp_path)
    lab = await make_lab(config=config)
    for command in (
        "AUTH OAUTHBEARER " + b64(f"n,,\x01auth=Bearer {token}\x01\x01"),
        "AUTH XOAUTH2 " + b64(f"user=shop/web\x01auth=Bearer {token}\x01\x01"),
        plain(token, "shop/web"),
    ):
        client = await secure(lab)
        assert len(command) > 512
        assert (await client.say(command)).startswith("235 ")
        await client.transaction()
        assert (await client.data(MAIL)).startswith("250 ")
    assert {mail.credential for mail in await lab.mails()} == {"shop/web"}


async def test_a_refused_token_client_hears_the_status_and_then_535(make_lab: LabFactory, tmp_path: Path) -> None:
    config, token = with_tokens(tmp_path)
    lab = await make_lab(config=config)
    client = await secure(lab)
    answer = await client.say("AUTH OAUTHBEARER " + b64(f"n,,\x01auth=Bearer {token}x\x01\x01"))
    assert answer.startswith("334 ")
    assert b"invalid_token" in base64.b64decode(answer[4:])
    assert (await client.say("AQ==")).startswith("535 5.7.8 ")


async def test_all_that_is_wrong_is_refused_alike(closed: Lab) -> None:
    client = await secure(closed)
    wrong = await client.say(plain("wrong"))
    assert wrong.startswith("535 5.7.8 ")
    assert await client.say(plain(user="nobody@example.test")) == wrong


async def test_a_cancelled_or_malformed_exchange_leaves_the_session_usable(closed: Lab) -> None:
    client = await secure(closed)
    assert await client.say("AUTH PLAIN") == "334 "
    assert (await client.say("*")).startswith("501 5.7.0 ")
    assert (await client.say("AUTH PLAIN !!!")).startswith("501 5.5.2 ")
    assert (await client.say("AUTH CRAM-MD5")).startswith("504 5.5.4 ")
    assert (await client.say(plain())).startswith("235 ")


async def test_a_login_may_use_its_own_addresses_alone(closed: Lab) -> None:
    client = await secure(closed)
    await client.say(plain())
    refused = await client.say("MAIL FROM:<ceo@victim.test>")
    assert refused.startswith("553 5.7.1 ")
    assert LOGIN in refused
    assert "ceo@victim.test" in refused
    for header, code in (
        (b"From: ceo@victim.test", "553 5.7.1 "),
        (b"From: app@example.test\r\nFrom: ceo@victim.test", "554 5.6.0 "),
        (b"From: app@example.test, ceo@victim.test", "553 5.7.1 "),
        (b"From: ceo@victim.test <app@example.test>", "553 5.7.1 "),
        (b"From: Board:ceo@victim.test;", "554 5.6.0 "),
        (b"X: y\r\n\x01From: ceo@victim.test", "553 5.7.1 "),
        (b"Subject: a\x0bFrom: ceo@victim.test", "554 5.6.0 "),
    ):
        await client.transaction()
        assert (await client.data(header + b"\r\n\r\nbody\r\n")).startswith(code)
    assert await closed.mails() == []


async def test_the_header_from_governs_a_null_reverse_path(closed: Lab) -> None:
    client = await secure(closed)
    await client.say(plain())
    await client.transaction("")
    assert (await client.data(b"Subject: nobody\r\n\r\nbody\r\n")).startswith("554 5.6.0 ")
    await client.transaction("")
    assert (await client.data(MAIL)).startswith("250 ")
    [mail] = await closed.mails()
    assert (mail.sender, mail.tenant) == ("", "shop")


async def test_loopback_is_nobody_unless_a_network_sender_says_so(closed: Lab, make_lab: LabFactory) -> None:
    client = await closed.hello("mx")
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")
    for recipient in ("you@far.test", "app@example.test"):
        assert (await client.say(f"RCPT TO:<{recipient}>")).startswith("550 5.7.1 ")
    trusting = await make_lab(config=snapshot("127.0.0.0/8"))
    client = await trusting.hello("mx")
    await client.transaction()
    assert (await client.data(MAIL)).startswith("250 ")


async def test_guessing_locks_across_sessions(closed: Lab) -> None:
    rules = LockoutRules(delay=0.01, max_delay=0.02)
    closed.ingress.authenticator = quick = Authenticator(lambda: closed.index, lockouts=Lockouts(rules))
    try:
        clients = [await secure(closed) for _ in range(12)]
        replies = await asyncio.gather(*(client.say(plain(f"guess{n}")) for n, client in enumerate(clients)))
        assert [reply[:3] for reply in replies].count("454") == 2  # after ten guesses at one user from one address
        assert (await clients[0].say(plain())).startswith("454 4.7.0 Too many failed logins; try again in ")
    finally:
        quick.close()
