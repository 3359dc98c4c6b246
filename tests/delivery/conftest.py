"""Delivery is tested on uvloop, on which it runs; TLS on asyncio's own loop too, since there the two differ most."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name == "test_tls.py":
        loops["asyncio"] = asyncio.SelectorEventLoop
    return loops
