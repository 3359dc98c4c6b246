"""PROXY headers: from listed peers alone, both versions; probes without one are still answered."""

import asyncio
import socket
import ssl
import struct

import pytest

from tests.ingress.lab import Lab, LabFactory, snapshot
from waypost_ingress.proxy import ProxyError, Source, take
from waypost_policy.index import ConfigIndex

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(family: int, body: bytes, command: int = 0x21) -> bytes:
    return V2 + struct.pack("!BBH", command, family, len(body)) + body


TCP4 = bytes([192, 0, 2, 7, 10, 0, 0, 1]) + struct.pack("!HH", 4000, 25)
TCP6 = bytes.fromhex("20010db8000000000000000000000007" + "fd00" + "00" * 14) + struct.pack("!HH", 4000, 25)

GOOD = [
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4000 25\r\n", Source("192.0.2.7", 4000)),
    (b"PROXY TCP6 2001:db8::7 fd00:: 4000 25\r\n", Source("2001:db8::7", 4000)),
    (b"PROXY UNKNOWN\r\n", Source()),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", Source()),
    (v2(0x11, TCP4), Source("192.0.2.7", 4000)),
    (v2(0x11, TCP4 + b"\x03\x00\x04abcd"), Source("192.0.2.7", 4000)),
    (v2(0x21, TCP6), Source("2001:db8::7", 4000)),
    (v2(0x00, b"", command=0x20), Source()),
    (v2(0x00, b"whatever"), Source()),
]
BAD = [
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4000\r\n",
    b"PROXY TCP4 2001:db8::7 10.0.0.1 4000 25\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4000 99999\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4\xc2\xb2 25\r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.1 4000 25\r\n",
    b"PROXY " + b"x" * 120,
    v2(0x11, TCP4, command=0x31),
    v2(0x11, TCP4, command=0x22),
    v2(0x11, TCP4[:8]),
    v2(0x12, TCP4),
    V2 + struct.pack("!BBH", 0x21, 0x11, 60000),
]


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_a_header_is_read_however_it_is_cut_and_nothing_more_is_taken(header: bytes, source: Source) -> None:
    for cut in range(1, len(header)):
        buffer = bytearray(header[:cut])
        assert take(buffer) is None
        assert buffer == header[:cut]
    buffer = bytearray(header + b"EHLO x\r\n")
    assert take(buffer) == source
    assert buffer == b"EHLO x\r\n"


@pytest.mark.parametrize("header", BAD)
def test_a_header_that_is_none_is_refused(header: bytes) -> None:
    with pytest.raises(ProxyError):
        take(bytearray(header))


@pytest.fixture
async def proxied(make_lab: LabFactory) -> Lab:
    """Loopback is a proxy; 192.0.2.0/24 may send."""
    return await make_lab(
        proxy_from="127.0.0.0/8", proxy_timeout=0.2, config=snapshot(cidr="192.0.2.0/24"), greet_delay=0.05
    )


@pytest.mark.parametrize("header", [GOOD[0][0], GOOD[4][0]])
async def test_the_client_behind_the_proxy_is_the_peer(proxied: Lab, header: bytes) -> None:
    client = await proxied.connect()
    client.send(header)
    await client.hello()
    await client.transaction()
    assert (await client.data(b"From: app@example.test\r\n\r\n")).startswith("250 ")
    [mail] = await proxied.mails()
    assert mail.source == "192.0.2.7"
    assert b"([192.0.2.7])" in (mail.content or b"")


async def test_an_ipv4_client_of_a_dual_stack_proxy_is_an_ipv4_client(proxied: Lab) -> None:
    client = await proxied.connect()
    client.send(b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 4000 25\r\n")
    await client.hello()
    await client.transaction()
    assert (await client.data(b"From: app@example.test\r\n\r\n")).startswith("250 ")
    [mail] = await proxied.mails()
    assert mail.source == "192.0.2.7"
    assert b"([192.0.2.7])" in (mail.content or b"")


@pytest.mark.parametrize("together", [True, False])
async def test_the_header_comes_before_the_tls_handshake(proxied: Lab, together: bool) -> None:
    """In one packet with the ClientHello, as a balancer may send them, or in one of its own."""
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = proxied.authority.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", proxied.ports["submissions"])) as sock:
        sock.setblocking(False)
        if not together:
            await loop.sock_sendall(sock, GOOD[4][0])
            await asyncio.sleep(0.05)
        early = GOOD[4][0] if together else b""
        async with asyncio.timeout(5):
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await loop.sock_sendall(sock, early + outgoing.read())
                    early = b""
                    incoming.write(await loop.sock_recv(sock, 65536))
            await loop.sock_sendall(sock, outgoing.read())
            while True:
                try:
                    greeting = tls.read()
                    break
                except ssl.SSLWantReadError:
                    incoming.write(await loop.sock_recv(sock, 65536))
    assert greeting.startswith(b"220 ")


async def test_a_probe_that_says_nothing_is_greeted_and_earns_no_trust(proxied: Lab) -> None:
    proxied.index = ConfigIndex(snapshot(cidr="0.0.0.0/0"))
    client = await proxied.connect()
    await client.hello()
    assert (await client.say("MAIL FROM:<app@example.test>")).startswith("250 ")
    assert (await client.say("RCPT TO:<a@far.test>")).startswith("550 5.7.1 ")


@pytest.mark.parametrize("header", [GOOD[2][0], GOOD[7][0]])
async def test_a_proxy_that_speaks_for_itself_is_a_health_check(proxied: Lab, header: bytes) -> None:
    client = await proxied.connect()
    client.send(header)
    assert (await client.hello()).startswith("250-")


async def test_a_probe_that_connects_and_closes_leaves_nothing_behind(proxied: Lab) -> None:
    client = await proxied.connect()
    await client.close()
    await proxied.ingress.left_to(0)


@pytest.mark.parametrize("header", [BAD[0], BAD[6]])
async def test_a_broken_header_closes_without_a_word(proxied: Lab, header: bytes) -> None:
    client = await proxied.connect()
    client.send(header)
    assert await client.closed()


async def test_half_a_header_and_then_silence_closes(proxied: Lab) -> None:
    client = await proxied.connect()
    client.send(b"PROXY TCP4 192")
    assert await client.closed()


async def test_a_header_from_a_peer_that_is_not_listed_is_no_header(make_lab: LabFactory) -> None:
    lab = await make_lab(proxy_from="10.0.0.0/8", config=snapshot(cidr="192.0.2.0/24"), greet_delay=1.0)
    client = await lab.connect()
    client.send(GOOD[0][0])
    assert (await client.reply()).startswith("554 5.5.1 ")
    assert await client.closed()


async def test_caps_count_the_client_and_not_its_proxy(make_lab: LabFactory) -> None:
    lab = await make_lab(
        proxy_from="127.0.0.0/8", connections_per_address=1, greet_delay=0.0, config=snapshot(cidr="192.0.2.0/24")
    )
    for host in (7, 8, 9):
        client = await lab.connect()
        client.send(b"PROXY TCP4 192.0.2.%d 10.0.0.1 4000 25\r\n" % host)
        await client.hello()
    client = await lab.connect()
    client.send(GOOD[0][0])
    assert (await client.reply()).startswith("421 4.7.0 Too many connections from 192.0.2.7")
