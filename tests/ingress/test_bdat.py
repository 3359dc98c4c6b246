"""CHUNKING (RFC 3030), without BINARYMIME."""

from tests.ingress.lab import Lab, LabFactory

HEADER = b"From: app@example.test\r\n\r\n"


async def test_chunks_are_one_mail_and_dots_are_no_ends(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    client.send(b"BDAT %d\r\n" % len(HEADER) + HEADER + b"BDAT 12\r\nhello\r\n.\r\n..")
    assert (await client.reply()).startswith("250 2.0.0 Ok: 26 octets")
    assert (await client.reply()).startswith("250 2.0.0 Ok: 12 octets")
    client.send(b"BDAT 2 LAST\r\n\r\n")
    assert "queued as" in await client.reply()
    [mail] = await lab.mails()
    assert (mail.content or b"").endswith(HEADER + b"hello\r\n.\r\n..\r\n")


async def test_a_mail_in_one_last_chunk(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    content = HEADER + b".\r\n..\r\nend without line end"
    client.send(b"BDAT %d LAST\r\n" % len(content) + content)
    assert (await client.reply()).startswith("250 2.0.0 Ok: queued as ")
    [mail] = await lab.mails()
    assert (mail.content or b"").endswith(content)


async def test_chunks_cut_lines_anywhere_and_an_empty_last_one_ends_them(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    content = HEADER + b"some text\r\n"
    for cut in (10, len(HEADER) + 10):
        part, content = content[:cut], content[cut:]
        client.send(b"BDAT %d\r\n" % len(part) + part)
        assert (await client.reply()).startswith("250 2.0.0 Ok: ")
        content = content or b""
    client.send(b"BDAT %d\r\n" % len(content) + content + b"BDAT 0 LAST\r\n")
    assert (await client.reply()).startswith("250 ")
    assert "queued as" in await client.reply()
    [mail] = await lab.mails()
    assert (mail.content or b"").endswith(HEADER + b"some text\r\n")


async def test_envelope_and_chunk_go_in_one_group(lab: Lab) -> None:
    client = await lab.hello()
    content = HEADER + b"x\r\n"
    client.send(
        b"MAIL FROM:<app@example.test>\r\nRCPT TO:<a@far.test>\r\nBDAT %d LAST\r\n" % len(content)
        + content
        + b"QUIT\r\n"
    )
    assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "250", "221"]
    assert len(await lab.mails()) == 1


async def test_a_refused_chunk_is_read_to_its_end_and_none_of_it_is_a_command(lab: Lab) -> None:
    client = await lab.hello()
    chunk = b"RSET\r\nMAIL FROM:<app@example.test>\r\n"
    client.send(b"BDAT %d LAST\r\n" % len(chunk) + chunk + b"NOOP\r\n")
    assert (await client.reply()).startswith("503 5.5.1 MAIL")
    assert (await client.reply()).startswith("250 2.0.0")
    assert (await client.say("DATA")).startswith("503 ")


async def test_a_chunk_over_the_limit_is_552(make_lab: LabFactory) -> None:
    lab = await make_lab(message_size=64 << 10)
    client = await lab.hello()
    await client.transaction()
    client.send(b"BDAT 70000\r\n" + b"x" * 70000)
    assert (await client.reply()).startswith("552 5.3.4 ")
    client.send(b"BDAT 3 LAST\r\nabc")
    assert (await client.reply()).startswith("552 5.3.4 ")
    assert await lab.mails() == []
    await client.transaction()
    client.send(b"BDAT 99999999999\r\n")
    assert (await client.reply()).startswith("552 5.3.4 ")


async def test_a_bare_line_end_in_chunks_is_refused_and_closes(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    client.send(b"BDAT %d\r\n" % len(HEADER) + HEADER + b"BDAT 8 LAST\r\nfoo\nbar\n")
    assert (await client.reply()).startswith("250 ")
    assert (await client.reply()).startswith("554 5.6.0 ")
    assert await client.closed()
    assert await lab.mails() == []


async def test_data_and_bdat_do_not_mix(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    client.send(b"BDAT 2\r\n\r\n")
    assert (await client.reply()).startswith("250 ")
    assert (await client.say("DATA")).startswith("503 ")
    assert (await client.say("RCPT TO:<b@far.test>")).startswith("503 ")
    assert (await client.say("RSET")).startswith("250 ")
    await client.transaction()


async def test_a_size_that_is_no_number_ends_the_session(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    client.send(b"BDAT some LAST\r\nQUIT\r\n")
    assert (await client.reply()).startswith("501 5.5.4 ")
    await client.reply()
    assert await client.closed()
