"""What came in clear never counts after the handshake (RFC 3207 4.2, CVE-2011-0411)."""

import asyncio
import ssl
import warnings

import pytest

from tests.ingress.lab import Lab


@pytest.mark.parametrize("listener", ["mx", "submission"])
async def test_commands_behind_starttls_in_the_same_packet_are_forgotten(lab: Lab, listener: str) -> None:
    client = await lab.connect(listener)
    await client.hello()
    client.send(b"STARTTLS\r\nEHLO injected.test\r\nMAIL FROM:<app@example.test>\r\n")
    assert (await client.reply()).startswith("220 ")
    await client.start_tls(lab.authority.client_context())
    # Nothing of it is answered: the next reply is that to the next command, in a session that knows no name yet.
    assert (await client.say("RCPT TO:<a@far.test>")).startswith("503 5.5.1 MAIL")
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("503 5.5.1 Say EHLO")


async def test_a_transaction_begun_in_clear_is_gone_after_the_handshake(lab: Lab) -> None:
    client = await lab.hello()
    await client.transaction()
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls(lab.authority.client_context())
    assert (await client.say("EHLO client.test")).startswith("250-")
    assert (await client.say("DATA")).startswith("503 ")


async def test_plain_text_after_the_220_breaks_the_handshake(lab: Lab) -> None:
    client = await lab.hello()
    assert (await client.say("STARTTLS")).startswith("220 ")
    client.send(b"EHLO injected.test\r\nMAIL FROM:<app@example.test>\r\n")
    async with asyncio.timeout(5):
        rest = await client.reader.read()
    assert b"250" not in rest


async def test_starttls_comes_once_takes_no_argument_and_needs_ehlo(lab: Lab) -> None:
    client = await lab.connect()
    await client.reply()
    assert (await client.say("STARTTLS")).startswith("503 ")
    await client.say("EHLO client.test")
    assert (await client.say("STARTTLS now")).startswith("501 ")
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls(lab.authority.client_context())
    assert "STARTTLS" not in await client.say("EHLO client.test")
    assert (await client.say("STARTTLS")).startswith("503 ")


async def test_a_client_may_speak_in_the_packet_that_ends_its_handshake(lab: Lab) -> None:
    """Legitimate: TLS 1.3 clients send their EHLO right behind Finished."""
    client = await lab.hello()
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls(lab.authority.client_context())
    client.send(b"EHLO client.test\r\n")
    assert (await client.reply()).startswith("250-")


async def test_tls_1_1_is_refused(lab: Lab) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", lab.ports["submissions"], ssl=context)


async def test_many_handshakes_at_once_lose_no_octet(lab: Lab) -> None:
    async def handshake(listener: str) -> None:
        client = await lab.connect(listener)
        if listener != "submissions":
            await client.hello()
            assert (await client.say("STARTTLS")).startswith("220 ")
            await client.start_tls(lab.authority.client_context())
            assert (await client.say("EHLO client.test")).startswith("250-")
        else:
            await client.hello()

    async with asyncio.timeout(20):
        await asyncio.gather(*(handshake(listener) for listener in ("mx", "submission", "submissions") * 20))
