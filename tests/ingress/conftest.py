"""One nats-server for the folder's tests, and labs on it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.ingress.lab import LAYOUT, Lab, LabFactory
from tests.support.nats import NatsServer, prepared


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that services run on: its transports and TLS are its own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def intake_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with every stream, for as long as the tests run."""
    server = NatsServer(tmp_path_factory.mktemp("ingress-nats"))

    async def start() -> None:
        await server.start()
        await (await prepared(server, LAYOUT)).close()

    asyncio.run(start())
    try:
        yield server.url
    finally:
        asyncio.run(server.kill())


@pytest.fixture
async def make_lab(intake_url: str, tmp_path: Path) -> AsyncIterator[LabFactory]:
    """Labs with settings of one's own; closed after the test."""
    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> Lab:
            return await stack.enter_async_context(Lab(intake_url, tmp_path, **settings))

        yield make


@pytest.fixture
async def lab(make_lab: LabFactory) -> Lab:
    return await make_lab()
