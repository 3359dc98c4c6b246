"""Fixtures that several parts share; what they are made of is in tests/support."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.nats import LAYOUT, NatsServer, prepared
from waypost_queue.store import Store
from waypost_queue.streams import Layout


@pytest.fixture
def layout() -> Layout:
    """One shard, one pool; a test module that needs another overrides this fixture."""
    return LAYOUT


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A running nats-server with an empty store, that anyone may use."""
    async with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def store(nats_server: NatsServer, layout: Layout) -> Store:
    """A connection to `nats_server`, with every stream and consumer of `layout`."""
    return await prepared(nats_server, layout)
