"""The PROXY protocol, versions 1 and 2, as a pure parser of the first octets of a connection.

It is spoken only to peers that are listed (settings); from anybody else such a header is just a client that talks
before its turn. https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
"""

import ipaddress
import struct
from typing import Final

from msgspec import Struct

V1_MAX: Final = 107  # octets with CRLF, section 2.1
V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V2_MAX: Final = 16 + 4096  # octets; addresses take 36, the rest is TLVs that are skipped
_V1 = b"PROXY "


class ProxyError(ValueError):
    """A header that is none, or none for TCP: the connection is closed."""


class Source(Struct, frozen=True):
    """Whom the proxy speaks for; address "" = for itself (LOCAL, UNKNOWN): a health check."""

    address: str = ""
    port: int = 0


def begins_like_proxy(buffer: bytes | bytearray) -> bool:
    """Whether the first octets may become a header of either version."""
    head = bytes(buffer[:12])
    return _V1.startswith(head[:6]) or V2_SIGNATURE.startswith(head)


def take(buffer: bytearray) -> Source | None:
    """Takes a header off the front of `buffer`. None: more is needed. Raises ProxyError."""
    if buffer.startswith(_V1):
        return _take_v1(buffer)
    if buffer.startswith(V2_SIGNATURE):
        return _take_v2(buffer)
    if begins_like_proxy(buffer):
        return None
    raise ProxyError("no PROXY header")


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise ProxyError("an address that is none") from error
    if address.version != version:
        raise ProxyError("an address of another family")
    return str(address)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ProxyError("a port that is none")
    return int(text)


def _take_v1(buffer: bytearray) -> Source | None:
    end = buffer.find(b"\r\n", 0, V1_MAX)
    if end < 0:
        if len(buffer) >= V1_MAX:
            raise ProxyError(f"a version 1 header longer than {V1_MAX} octets")
        return None
    try:
        words = buffer[:end].decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise ProxyError("a version 1 header that is not ASCII") from error
    if words[1] == "UNKNOWN":
        source = Source()
    elif words[1] in ("TCP4", "TCP6") and len(words) == 6:
        version = 4 if words[1] == "TCP4" else 6
        _address(words[3], version)
        _port(words[5])
        source = Source(_address(words[2], version), _port(words[4]))
    else:
        raise ProxyError("a version 1 header that is not PROXY TCP4|TCP6 source destination ports")
    del buffer[: end + 2]
    return source


def _take_v2(buffer: bytearray) -> Source | None:
    if len(buffer) < 16:
        return None
    version_command, family, length = struct.unpack_from("!BBH", buffer, 12)
    if version_command >> 4 != 2 or version_command & 15 > 1:
        raise ProxyError("a version 2 header with an unknown command")
    if 16 + length > V2_MAX:
        raise ProxyError(f"a version 2 header longer than {V2_MAX} octets")
    if len(buffer) < 16 + length:
        return None
    body = bytes(buffer[16 : 16 + length])
    if version_command & 15 == 0 or family == 0:  # LOCAL; UNSPEC
        source = Source()
    elif family == 0x11 and length >= 12:  # TCP over IPv4
        source = Source(str(ipaddress.IPv4Address(body[:4])), int.from_bytes(body[8:10], "big"))
    elif family == 0x21 and length >= 36:  # TCP over IPv6
        source = Source(str(ipaddress.IPv6Address(body[:16])), int.from_bytes(body[32:34], "big"))
    else:
        raise ProxyError("a version 2 header for something that is not TCP")
    del buffer[: 16 + length]
    return source
