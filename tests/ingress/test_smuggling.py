"""Only CRLF . CRLF ends a mail; whatever else might be taken for an end is refused, and nothing of it is relayed."""

import pytest

from tests.ingress.lab import Lab

HEADER = b"From: app@example.test\r\n\r\nfirst"
SECOND = b"MAIL FROM:<evil@example.test>\r\nRCPT TO:<victim@far.test>\r\nDATA\r\nFrom: evil@example.test\r\n\r\nsecond"

VARIANTS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\n.\r",
    b"\r.\n",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\r\n.\r\n.\n",
]


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_false_end_followed_by_commands_is_one_refused_mail(lab: Lab, variant: bytes) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(HEADER + variant + SECOND + b"\r\n.\r\n")
    assert (await client.reply()).startswith("554 5.6.0 ")
    assert await client.closed()
    assert await lab.mails() == []


@pytest.mark.parametrize("variant", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\n.\r", b"\r.\n"])
async def test_a_client_that_waits_behind_a_false_end_is_told_at_once(lab: Lab, variant: bytes) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    client.send(HEADER + variant)
    assert (await client.reply()).startswith("554 5.6.0 ")
    assert await client.closed()
    assert await lab.mails() == []


@pytest.mark.parametrize("bad", [b"bare\nLF", b"bare\rCR", b"a\x00b"])
async def test_a_bare_line_end_or_nul_anywhere_is_refused_and_closes(lab: Lab, bad: bytes) -> None:
    client = await lab.hello()
    await client.transaction()
    assert (await client.data(HEADER + b"\r\n" + bad + b"\r\nmore\r\n")).startswith("554 5.6.0 ")
    assert await client.closed()
    assert await lab.mails() == []


async def test_a_long_mail_with_a_bare_line_end_hears_its_refusal_before_the_close(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    assert (await client.data(HEADER + b"\nx\r\n" + b"filler of a line\r\n" * 100_000)).startswith("554 5.6.0 ")
    assert await client.closed()


@pytest.mark.parametrize("command", [b"NOOP\n", b"NOOP\rRSET\r\n", b"NO\x00OP\r\n", b"MAIL FROM:<app@example.test>\n"])
async def test_a_command_that_does_not_end_in_crlf_alone_is_refused_and_closes(lab: Lab, command: bytes) -> None:
    client = await lab.hello()
    client.send(command)
    assert (await client.reply()).startswith("554 5.6.0 ")
    assert await client.closed()


async def test_stuffed_dots_come_out_as_they_were_meant(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    assert (await client.data(b"From: app@example.test\r\n\r\n..\r\n..two\r\n.x\r\n...\r\n")).startswith("250 ")
    [mail] = await lab.mails()
    assert (mail.content or b"").endswith(b"\r\n\r\n.\r\n.two\r\nx\r\n..\r\n")


async def test_the_end_may_come_octet_by_octet(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    for octet in HEADER + b"\r\n.\r\n":
        client.send(bytes([octet]))
        await client.writer.drain()
    assert (await client.reply()).startswith("250 ")
    assert len(await lab.mails()) == 1
