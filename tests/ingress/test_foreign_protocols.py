"""Browsers, early talkers and who does not wait for a reply are shown the door."""

import asyncio
import contextlib
import ssl

import pytest

from tests.ingress.lab import Lab, LabFactory


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\n",
        b"Host: mx.lab.test\r\n",
        b"Content-Type: text/plain\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        b"GET / HTTP/1.0\n",
    ],
)
async def test_http_and_header_lines_end_the_session(lab: Lab, request_line: bytes) -> None:
    client = await lab.connect()
    await client.reply()
    client.send(request_line + b"MAIL FROM:<app@example.test>\r\nRCPT TO:<a@far.test>\r\n")
    assert (await client.reply()).startswith("554 5.5.1 ")
    assert await client.closed()


async def test_a_tls_handshake_at_a_port_that_begins_in_clear_is_dropped(lab: Lab) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(
            "127.0.0.1", lab.ports["mx"], ssl=lab.authority.client_context(), server_hostname="localhost"
        )


@pytest.mark.parametrize("protocols", [["http/1.1"], ["h2", "http/1.1"], ["imap"]])
async def test_tls_for_another_protocol_is_dropped(lab: Lab, protocols: list[str]) -> None:
    context = lab.authority.client_context()
    context.set_alpn_protocols(protocols)
    greeting = b""
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", lab.ports["submissions"], ssl=context, server_hostname="localhost"
        )
        with contextlib.closing(writer):
            greeting = await reader.readline()
    assert greeting == b""


async def test_tls_with_alpn_for_smtp_is_taken(lab: Lab) -> None:
    context = lab.authority.client_context()
    context.set_alpn_protocols(["smtp"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", lab.ports["submissions"], ssl=context, server_hostname="localhost"
    )
    assert (await reader.readline()).startswith(b"220 ")
    writer.close()
    await writer.wait_closed()


async def test_a_stranger_who_talks_before_the_greeting_gets_a_554(make_lab: LabFactory) -> None:
    lab = await make_lab(greet_delay=5.0)
    lab.index = type(lab.index)(lab.config.__class__())  # nobody may send: everybody is a stranger
    client = await lab.connect()
    client.send(b"EHLO client.test\r\n")
    assert (await client.reply()).startswith("554 5.5.1 ")
    assert await client.closed()


async def test_a_known_network_is_not_kept_waiting_for_its_greeting(make_lab: LabFactory) -> None:
    lab = await make_lab(greet_delay=5.0)
    client = await lab.connect()
    assert (await client.reply(timeout=2.0)).startswith("220 ")


@pytest.mark.parametrize(
    ("before", "group"),
    [
        ([], b"EHLO client.test\r\nMAIL FROM:<app@example.test>\r\n"),
        ([], b"HELO client.test\r\nMAIL FROM:<app@example.test>\r\n"),
        (["HELO client.test"], b"MAIL FROM:<app@example.test>\r\nRCPT TO:<a@far.test>\r\n"),
        (
            ["EHLO client.test", "MAIL FROM:<app@example.test>", "RCPT TO:<a@far.test>"],
            b"DATA\r\nFrom: app@example.test\r\n\r\nx\r\n.\r\n",
        ),
    ],
)
async def test_commands_that_do_not_wait_for_a_reply_they_need_end_the_session(
    lab: Lab, before: list[str], group: bytes
) -> None:
    client = await lab.connect()
    await client.reply()
    for command in before:
        assert (await client.say(command)).startswith("250")
    client.send(group)
    assert (await client.reply()).startswith("554 5.5.1 Wait for the reply to ")
    assert await client.closed()
    assert await lab.mails() == []
