"""One lab a test: DNS, a next hop, and a whole Waypost around them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.dns import DnsServer
from tests.support.lab import Lab, domain
from tests.support.nexthop import NextHop

ZONES = {
    "dst.example": {"MX": ["10 mx.dst.example."]},
    "mx.dst.example": {"A": ["127.0.0.1"]},
    "src.example": {"MX": ["10 mx.dst.example."]},
    "dead.example": {"MX": ["10 mx.dead.example."]},
    "mx.dead.example": {"A": ["127.0.0.9"]},
}


@pytest.fixture
async def hop() -> AsyncIterator[NextHop]:
    """The next hop of dst.example, and of src.example, where DSNs go."""
    async with NextHop(name="mx.dst.example") as server:
        yield server


@pytest.fixture
async def lab(tmp_path: Path, hop: NextHop) -> AsyncIterator[Lab]:
    """A whole Waypost; src.example may send from loopback."""
    async with (
        DnsServer(ZONES) as dns,
        Lab(tmp_path, dns=dns.address, remote_port=hop.port, domains=[domain("src.example")]) as running,
    ):
        yield running
