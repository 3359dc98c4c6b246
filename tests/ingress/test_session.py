"""A mail through each listener, as it is stored."""

import asyncio

import pytest

from tests.ingress.lab import Lab


@pytest.mark.parametrize("listener", ["mx", "submission", "submissions"])
async def test_a_mail_gets_its_250_once_it_is_stored(lab: Lab, listener: str) -> None:
    client = await lab.hello(listener)
    await client.transaction("app@example.test", "one@far.test", "two@other.test")
    reply = await client.data(b"From: app@example.test\r\nSubject: hello\r\n\r\nbody\r\n")
    assert reply.startswith("250 2.0.0 Ok: queued as ")
    [mail] = await lab.mails()
    assert mail.id == reply.rsplit(" ", 1)[1]
    assert mail.sender == "app@example.test"
    assert [(r.address, r.domain) for r in mail.recipients] == [
        ("one@far.test", "far.test"),
        ("two@other.test", "other.test"),
    ]
    assert (mail.domain, mail.tenant, mail.source) == ("example.test", "shop", "127.0.0.1")
    assert mail.subject == "hello"
    content = mail.content
    assert content is not None
    assert content.endswith(b"From: app@example.test\r\nSubject: hello\r\n\r\nbody\r\n")
    received = content.split(b"\r\nFrom:")[0].replace(b"\r\n\t", b" ")
    assert received.startswith(b"Received: from client.test ([127.0.0.1])")
    assert mail.id.encode() in received
    assert (b"Message-ID:" in content) == (b"Date:" in content) == (listener != "mx")
    assert await client.say("QUIT") == "221 2.0.0 Bye"
    assert await client.closed()


async def test_many_mails_on_one_connection_and_many_connections(lab: Lab) -> None:
    async def several(number: int) -> None:
        client = await lab.hello("mx")
        for mail in range(5):
            await client.transaction()
            reply = await client.data(b"From: app@example.test\r\n\r\n%d.%d\r\n" % (number, mail))
            assert reply.startswith("250 ")

    await asyncio.gather(*(several(number) for number in range(10)))
    bodies = {(mail.content or b"").rsplit(b"\r\n\r\n", 1)[1] for mail in await lab.mails()}
    assert bodies == {b"%d.%d\r\n" % (number, mail) for number in range(10) for mail in range(5)}


async def test_a_large_body_goes_to_the_spool(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    body = b"x" * 70 + b"\r\n"
    assert (await client.data(b"From: app@example.test\r\n\r\n" + body * 20_000)).startswith("250 ")
    [mail] = await lab.mails()
    assert mail.content is None
    assert mail.chunks == 3
    assert mail.size > 1_440_000
    assert lab.ingress.room.left == lab.settings.content_memory


async def test_pipelined_commands_are_answered_in_order_and_together(lab: Lab) -> None:
    client = await lab.hello()
    client.send(
        b"MAIL FROM:<app@example.test>\r\nRCPT TO:<a@far.test>\r\n"
        b"RCPT TO:<b%c@far.test>\r\nRCPT TO:<d@far.test>\r\nDATA\r\n"
    )
    codes = [(await client.reply())[:3] for _ in range(5)]
    assert codes == ["250", "250", "553", "250", "354"]
    client.send(b"From: app@example.test\r\n\r\nx\r\n.\r\nRSET\r\nQUIT\r\n")
    assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "221"]
    [mail] = await lab.mails()
    assert [r.address for r in mail.recipients] == ["a@far.test", "d@far.test"]


async def test_a_client_that_shuts_its_sending_side_still_hears_the_250(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(b"From: app@example.test\r\n\r\nx\r\n.\r\n")
    client.writer.write_eof()
    assert (await client.reply()).startswith("250 ")
    assert await client.closed()


async def test_login_over_tls_is_authenticated_submission(lab: Lab) -> None:
    client = await lab.connect("submission")
    assert "AUTH" not in await client.hello()
    assert (await client.say("AUTH PLAIN AGFwcEBleGFtcGxlLnRlc3QAY29ycmVjdCBob3JzZQ==")).startswith("538 ")
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls(lab.authority.client_context())
    ehlo = await client.say("EHLO client.test")
    assert "250-AUTH PLAIN LOGIN" in ehlo or "250 AUTH PLAIN LOGIN" in ehlo
    assert "STARTTLS" not in ehlo
    assert (await client.say("AUTH PLAIN AGFwcEBleGFtcGxlLnRlc3QAd3Jvbmc=")).startswith("535 ")
    assert (await client.say("AUTH PLAIN")).startswith("334")
    assert (await client.say("*")).startswith("501 5.7.0")
    assert (await client.say("AUTH PLAIN AGFwcEBleGFtcGxlLnRlc3QAY29ycmVjdCBob3JzZQ==")).startswith("235 ")
    assert (await client.say("AUTH PLAIN AGFwcEBleGFtcGxlLnRlc3QAY29ycmVjdCBob3JzZQ==")).startswith("503 ")
    await client.transaction()
    assert (await client.data(b"From: app@example.test\r\n\r\nx\r\n")).startswith("250 ")
    [mail] = await lab.mails()
    assert mail.credential == "app@example.test"
    assert b"with ESMTPSA id " in (mail.content or b"")
    assert b"TLSv1.3" in (mail.content or b"")
