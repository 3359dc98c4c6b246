"""Everything that a client could make endless has an end."""

import asyncio

import pytest
from pydantic import ValidationError

from tests.ingress.lab import Client, Lab, LabFactory, snapshot
from tests.support.wait import eventually
from waypost_ingress import arrival, dialogue
from waypost_ingress.settings import IngressSettings

BODY = b"From: app@example.test\r\n\r\n"


async def ended(client: Client, code: str) -> None:
    """The next reply is `code`, and the last."""
    assert (await client.reply()).startswith(code)
    assert await client.closed()
    await client.close()


async def test_a_command_line_without_end_is_cut_off(lab: Lab) -> None:
    client = await lab.hello()
    client.send(b"A" * 20_000)
    await ended(client, "500 5.5.6 ")


@pytest.mark.parametrize(
    ("command", "limit"),
    [("NOOP ", 512), ("EHLO ", 512), ("MAIL FROM:<app@example.test> ENVID=", 2048), ("AUTH PLAIN ", 12288)],
)
async def test_each_command_has_its_longest_line(lab: Lab, command: str, limit: int) -> None:
    client = await lab.hello("submission")
    line = command + "x" * (limit - len(command) - 2)
    assert not (await client.say(line)).startswith("500 ")
    client.send(line.encode() + b"x\r\n")
    assert (await client.reply()).startswith("500 5.5.6 ")


async def test_a_text_line_may_have_998_octets_and_no_more(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    assert (await client.data(BODY + b"x" * 998 + b"\r\n")).startswith("250 ")
    await client.transaction()
    assert (await client.data(BODY + b"x" * 999 + b"\r\n")).startswith("554 5.6.0 A line")
    await client.transaction()
    assert (await client.data(BODY + b"." + b"." + b"x" * 997 + b"\r\n")).startswith("250 ")


async def test_a_line_of_megabytes_is_read_in_little_memory_and_refused(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    await client.say("DATA")
    for _ in range(64):
        client.send(b"x" * 65536)
        await client.writer.drain()
        assert all(len(session.buffer) <= 512 * 1024 for session in lab.ingress.all_sessions())
    client.send(b"\r\n.\r\n")
    assert (await client.reply()).startswith("554 5.6.0 A line")
    await client.transaction()


async def test_size_is_refused_before_and_while_the_content_comes(make_lab: LabFactory) -> None:
    lab = await make_lab(message_size=64 << 10)
    client = await lab.hello()
    assert (await client.say("MAIL FROM:<app@example.test> SIZE=65537")).startswith("552 5.3.4 ")
    await client.transaction()
    assert (await client.data(BODY + b"a line of text\r\n" * 5000)).startswith("552 5.3.4 ")
    await client.transaction()
    assert (await client.data(BODY + b"a line of text\r\n" * 3000)).startswith("250 ")


async def test_header_over_100_kib_is_refused(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    header = b"From: app@example.test\r\n" + b"X-Filler: 0123456789\r\n" * 5000
    assert (await client.data(header + b"\r\nx\r\n")).startswith("552 5.3.4 The header")


async def test_recipients_past_the_limit_are_452(make_lab: LabFactory) -> None:
    lab = await make_lab(recipients=100)
    client = await lab.hello()
    assert "LIMITS RCPTMAX=100" in await client.say("EHLO client.test")
    await client.say("MAIL FROM:<app@example.test>")
    client.send(b"".join(b"RCPT TO:<r%d@far.test>\r\n" % i for i in range(105)))
    codes = [(await client.reply())[:9] for _ in range(105)]
    assert codes == ["250 2.1.5"] * 100 + ["452 4.5.3"] * 5
    assert (await client.data(BODY)).startswith("250 ")


async def test_limits_of_a_sender_say_what_was_exceeded_and_when_to_come_back(make_lab: LabFactory) -> None:
    lab = await make_lab(config=snapshot(recipients_per_minute=3))
    client = await lab.hello()
    await client.say("MAIL FROM:<app@example.test>")
    replies = [await client.say(f"RCPT TO:<r{i}@far.test>") for i in range(4)]
    assert [reply[:3] for reply in replies] == ["250", "250", "250", "450"]
    assert "3 recipients a minute" in replies[3]
    assert "try again in" in replies[3]
    # What was taken for a mail that never came is given back.
    assert (await client.say("RSET")).startswith("250")
    await client.transaction("app@example.test", "a@far.test", "b@far.test", "c@far.test")
    assert (await client.data(BODY)).startswith("250 ")
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")
    assert (await client.say("RCPT TO:<d@far.test>")).startswith("450 4.7.1 ")


async def test_errors_have_a_budget(lab: Lab) -> None:
    client = await lab.hello()
    for _ in range(arrival.MAX_ERRORS):
        assert (await client.say("FOO")).startswith("500 5.5.2 ")
    client.send(b"FOO\r\n")
    await ended(client, "421 4.7.0 Too many errors")


async def test_commands_that_bring_no_mail_have_a_budget_that_a_mail_fills_again(lab: Lab) -> None:
    client = await lab.hello()
    client.send(b"NOOP\r\n" * (dialogue.MAX_IDLE_COMMANDS - 5))
    for _ in range(dialogue.MAX_IDLE_COMMANDS - 5):
        assert (await client.reply()).startswith("250 ")
    await client.transaction()
    assert (await client.data(BODY)).startswith("250 ")
    client.send(b"RSET\r\n" * (dialogue.MAX_IDLE_COMMANDS + 1))
    for _ in range(dialogue.MAX_IDLE_COMMANDS):
        assert (await client.reply()).startswith("250 ")
    await ended(client, "421 4.7.0 Too many commands")


async def test_connections_of_one_address_have_a_cap(make_lab: LabFactory) -> None:
    lab = await make_lab(connections_per_address=3)
    clients = [await lab.hello() for _ in range(3)]
    await ended(await lab.connect(), "421 4.7.0 Too many connections from 127.0.0.1")
    await clients[0].say("QUIT")
    assert await clients[0].closed()
    await lab.ingress.left_to(2)
    await lab.hello()


async def test_connections_of_all_have_a_cap(make_lab: LabFactory) -> None:
    lab = await make_lab(connections=2)
    await lab.hello()
    await lab.hello()
    await ended(await lab.connect(), "421 4.7.0 Too many connections to this server")


async def test_large_mails_in_hand_have_a_cap(make_lab: LabFactory) -> None:
    lab = await make_lab(message_size=2 << 20, content_memory=5 << 20)
    content = BODY + b"a line of text\r\n" * 100_000
    first, second = await lab.hello(), await lab.hello()
    for client in (first, second):
        await client.transaction()
        assert (await client.say("DATA")).startswith("354 ")
    first.send(content)
    await eventually(lambda: lab.ingress.room.left <= 2 << 20, 5.0, "the first has its room")
    second.send(content + b".\r\n")
    assert (await second.reply()).startswith("452 4.3.1 ")
    first.send(b".\r\n")
    assert (await first.reply()).startswith("250 ")
    assert lab.ingress.room.left == 5 << 20


def test_a_setting_that_would_refuse_the_largest_mail_for_ever_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"content_memory .* must be 53477376 or more"):
        IngressSettings(message_size=25 << 20, content_memory=40 << 20)


async def test_what_comes_while_our_replies_have_no_room_is_not_waited_for_again(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    [session] = lab.ingress.all_sessions()
    session.pause_writing()
    assert (await client.say("DATA")).startswith("354 ")
    client.send(BODY + b"x\r\n.\r\n")
    await eventually(lambda: session.buffer.endswith(b"\r\n.\r\n"), 5.0, "the content is there")
    session.resume_writing()
    assert (await client.reply()).startswith("250 ")


async def test_a_client_that_never_reads_its_replies_is_made_to_wait(lab: Lab) -> None:
    client = await lab.hello()
    client.writer.transport.pause_reading()
    sent = 0
    try:
        async with asyncio.timeout(1.0):
            while sent < 64 << 20:
                client.send(b"VRFY x\r\n" * 8192)
                sent += 65536
                await client.writer.drain()
    except (TimeoutError, ConnectionError):
        pass
    assert sent < 64 << 20, "the server read on and on"
